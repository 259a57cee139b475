"Training: runs resume where they stopped, on any number of processes; what's held out stays out; a trained folder loads everywhere; bad pictures are named."
import json, os, runpy, shutil, socket, subprocess, sys
from pathlib import Path
import pytest, torch, two_processes
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer
from miniai import training
from miniai.core import embedded_model
from miniai.emoji import *
from miniai.loop import *
from miniai.tokenizer import train_bpe
from miniai.training import *
from running import built_once

here = Path(__file__).parent
tiny = dict(clip_steps=1, vae_steps=2, unet_steps=2, batch_scale=1/16)

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A model of one or two steps a stage"
    folder = tmp_path_factory.mktemp('trained')/'model'
    main(out=str(folder), **tiny)
    return folder

@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    texts,_ = captions(random_rows(2000, batch_generator(0)), batch_generator(1))
    folder = tmp_path_factory.mktemp('tokenizer')
    train_bpe(texts, 5000, 24).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)

def stand(folder): return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}

# What comes out

def test_diffusers_and_we_draw_the_same_from_a_trained_folder(trained):
    from miniai.own import StableDiffusion
    ours = StableDiffusion.from_pretrained(trained, device='cpu')
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = StableDiffusionPipeline.from_pretrained(trained, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    a = ours('a red bell', latents=latents, num_inference_steps=3, guidance_scale=4., progress=False)[0]
    b = theirs('a red bell', latents=latents, num_inference_steps=3, guidance_scale=4.).images[0]
    assert max(abs(x-y) for x,y in zip(a.tobytes(), b.tobytes()))<=1

def test_transformers_reads_the_clip_that_is_saved(trained):
    from miniai.clip import CLIPModel
    from transformers import CLIPModel as Library
    ids,x = torch.tensor([[1,2,3]]),torch.rand(1, 3, 64, 64)
    ours,theirs = (cls.from_pretrained(trained/'clip').eval() for cls in (CLIPModel,Library))
    with torch.no_grad(): a,b = (net(input_ids=ids, pixel_values=x).logits_per_text for net in (ours,theirs))
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)

def test_weights_on_disk_are_in_half_precision(trained):
    for file in trained.rglob('*.safetensors'):
        assert {v.dtype for v in training.load_file(file).values() if v.is_floating_point()}=={torch.float16}, file

def test_finished_parts_are_kept(trained):
    before = stand(trained)
    main(out=str(trained), **tiny)
    assert stand(trained)==before

def test_a_stage_has_a_record_beside_the_weights(trained):
    last = {name: (trained/'training'/f'{name}.csv').read_text().splitlines()[-1].split(',')[0] for name in ('clip','vae','unet')}
    assert last==dict(clip='1', vae='2', unet='2')

# What goes in

def test_losses_never_see_held_out_combinations(tokenizer):
    data = EmojiData()
    clip = CLIPLoss(None, tokenizer, data)
    for i in range(20):
        rows = clip.batch(batch_generator(i))
        assert len(rows)==128 and not held_out(rows).any()
    assert not any(held_out(rows).any() for rows,_ in data.chunks(500))

def test_hard_negatives_differ_in_one_respect():
    rows = random_rows(50, batch_generator(0), pairs=1.)
    for row in rows[rows[:,2]<nothing]:
        first,*others = variants(row[None], batch_generator(1)).tolist()
        a,color_a,b,color_b,axis,background = row.tolist()
        assert first==row.tolist()
        assert all(o in ([b,color_b,a,color_a,axis,background], [a,color_b,b,color_a,axis,background], [a,color_a,b,color_b,1-axis,background]) for o in others)

def test_the_text_encoder_learns_with_the_unet_unless_it_is_frozen(tokenizer):
    def loss():
        torch.manual_seed(0)
        text = new_clip(tokenizer, width=32).text_model
        return UNetLoss(new_unet((16,16), 32), text, tokenizer, torch.randn(9, 4, 16, 16), random_rows(9, batch_generator(0)), batch_size=4)
    for frozen in (False,True):
        net = loss()
        net.text_encoder.requires_grad_(not frozen)
        before = net.text_encoder.encoder.layers[0].mlp.fc1.weight.clone()
        for _ in train(net, steps=2, lr=.1): pass
        assert torch.equal(net.text_encoder.encoder.layers[0].mlp.fc1.weight, before)==frozen

def test_misplaced_attention_counts_as_much_as_its_weight_says(tokenizer):
    torch.manual_seed(0)
    text = new_clip(tokenizer, width=32).text_model
    rows = random_rows(9, batch_generator(0), pairs=1.)
    net = UNetLoss(new_unet((16,16), 32), text, tokenizer, torch.randn(9, 4, 16, 16), rows, batch_size=8)
    found = []
    with torch.no_grad():
        for net.placing in (0,1,2): found.append(net(batch_generator(3)).item())
    none,once,twice = found
    assert .05<once-none<.3 and twice-none==pytest.approx(2*(once-none), rel=1e-3) # An untrained network shares out evenly: 1/4 for each pair

def test_pictures_go_through_a_vae_of_any_precision():
    "As they do on a GPU, where the pipeline keeps its networks in half precision"
    torch.manual_seed(0)
    vae,x = new_vae((16,16,16)).eval(),EmojiData()(random_rows(4, batch_generator(0)), batch_generator(0))
    full = through_vae(vae, x)
    half = through_vae(vae.half(), x)
    assert half.dtype==torch.float32 and (full-half).abs().mean()<.01

# Stopping and going on

class Noisy(nn.Module):
    "A loss with randomness, an embedding, a matrix and a convolution"
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Embedding(10,16), nn.Unflatten(1,(1,4,4)), nn.Conv2d(1,3,3), nn.Flatten(), nn.Linear(12,1))
    def forward(self, generator):
        x, = share(torch.randint(10, (32,), generator=generator))
        return (self.model(x)[:,0] - x).square().mean()

@pytest.mark.this_machine('bits')
@pytest.mark.parametrize('stop', [1, 10, 25, 39])
def test_resumed_run_equals_one_that_never_stopped(tmp_path, stop):
    whole,part,rest = Noisy(),Noisy(),Noisy()
    how = dict(steps=40, lr=.01, checkpoint=tmp_path/'c.pt', every=5)
    straight = [o.loss.item() for o in train(whole, steps=40, lr=.01)]
    next(o for o in train(part, **how) if o.step==stop)
    resumed = [o.loss.item() for o in train(rest, **how)]
    assert len(resumed)==40 - stop//5*5
    assert resumed==pytest.approx(straight[-len(resumed):], rel=1e-5)
    for a,b in zip(whole.parameters(), rest.parameters()): assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)

def test_record_of_a_resumed_run_has_every_step_once(tmp_path):
    class Stop(Exception): pass
    class Interrupted(Noisy):
        calls = 0
        def forward(self, generator):
            self.calls += 1
            if self.calls>33: raise Stop
            return super().forward(generator)
    with pytest.raises(Stop): run(Interrupted(), 'r', tmp_path, report=2, steps=40, lr=.01, every=5)
    run(Noisy(), 'r', tmp_path, report=2, steps=40, lr=.01, every=5)
    assert [int(line.split(',')[0]) for line in (tmp_path/'r.csv').read_text().splitlines()]==list(range(2, 41, 2))

def test_a_finished_run_says_so_and_keeps_its_weights(tmp_path, capsys):
    how = dict(report=2, steps=10, lr=.01, every=5)
    first,again = (run(Noisy(), 'r', tmp_path, **how) for _ in range(2))
    assert 'r.pt is done' in capsys.readouterr().out
    assert all(torch.equal(a, b) for a,b in zip(first.parameters(), again.parameters()))

@pytest.mark.this_machine('bits')
def test_another_stream_has_other_batches():
    losses = [[o.loss.item() for o in train(Noisy(), steps=3, lr=.01, stream=s)] for s in (0,0,1)]
    assert losses[0]==losses[1]!=losses[2]

def test_weights_without_a_gradient_stay_as_they_are():
    net = Noisy()
    net.unused = nn.Linear(3, 3)
    before = net.unused.weight.clone()
    for _ in train(net, steps=2, lr=.1): pass
    assert torch.equal(net.unused.weight, before)

def test_latents_are_made_once_for_each_number(trained, tmp_path):
    for n in (200,100,200): assert len(training.encoded(trained, EmojiData(), n, tmp_path)[0])==n
    assert len([*tmp_path.iterdir()])==2

def test_a_prolonged_run_repeats_nothing_of_its_plateau():
    short,long = ([learning_rate(i, n) for i in range(n)] for n in (1000,2000))
    assert short[:750]==long[:750] and long[1499]==1 and 0<short[-1]<.01

# Several processes

def port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def launch(*args, cwd):
    "Run Python as two processes on this machine's CPU"
    start = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', str(port())]
    env = {**os.environ, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':'', 'PYTHONPATH':str(here.parent)}
    done = subprocess.run([*start, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]

@pytest.fixture(scope='module')
def weights(tmp_path_factory, tokenizer):
    "Folders of weights after 12 steps: of one process, of two, and of one that went on where two had stopped"
    def train_all(folder):
        one,two,resumed = (folder/name for name in ('one','two','resumed'))
        for f in one,two,resumed: tokenizer.save_pretrained(f/'tokenizer')
        launch(here/'two_processes.py', two, cwd=two)
        for file in two.glob('*.pt'): shutil.copy(file, resumed)
        for f in one,resumed: two_processes.main(f)
    return built_once(tmp_path_factory, 'two_processes', train_all)

@pytest.mark.parametrize('name', ['two','resumed'])
@pytest.mark.parametrize('stage', ['clip','vae','unet'])
def test_two_processes_end_at_the_weights_of_one(weights, name, stage):
    "To rounding; without the biases of keys, which move at random: the softmax takes no notice of them"
    one,other = (training.load_file(weights/n/f'{stage}.safetensors') for n in ('one',name))
    moved = 1e-2*sum(learning_rate(i, 12) for i in range(12)) # How far a weight can have come
    off = {k: (one[k]-other[k]).abs().max().item()/moved for k in one if not k.endswith(('k_proj.bias','to_k.bias'))}
    assert max(off.values())<.02, max(off, key=off.get)

def test_the_command_runs_on_two_processes_and_only_the_main_one_writes(weights):
    assert (weights/'two/model/training/clip.csv').read_text().count('\n')==1
    assert training.CLIPModel.from_pretrained(weights/'two/model/clip')

# Pictures of one's own

@pytest.fixture
def own(tmp_path):
    "A folder of four captioned pictures"
    (tmp_path/'own').mkdir()
    for i,color in enumerate(['red','green','blue','white']):
        Image.new('RGB', (90,70), color).save(tmp_path/f'own/{i}.png')
        (tmp_path/f'own/{i}.txt').write_text(f'a wombat on a {color} background\n')
    return tmp_path/'own'

def test_both_conventions_say_the_same(own, tmp_path):
    a = FolderData(own)
    for file in own.glob('*.txt'): file.unlink()
    (own/'metadata.jsonl').write_text('\n'.join(json.dumps(dict(file_name=f'{i}.png', text=text)) for i,text in enumerate(a.texts)))
    b = FolderData(own)
    assert a.texts==b.texts and torch.equal(a.pictures, b.pictures) and a.pictures.shape==(4,3,64,64)

def test_equal_captions_fit_each_other(own):
    (own/'1.txt').write_text((own/'0.txt').read_text())
    rows = torch.tensor([0,1,2])
    assert FolderData(own).fits(rows, rows).tolist()==[[True,True,False],[True,True,False],[False,False,True]]

def spoil_text(own): (own/'2.txt').unlink()
def spoil_file(own): (own/'2.png').write_bytes(b'no picture')
def spoil_size(own): Image.new('RGB', (9,9)).save(own/'2.png')
def spoil_index(own): (own/'metadata.jsonl').write_text('{"file_name":"2.gif", "text":"a wombat"}')
def spoil_all(own): [file.unlink() for file in own.glob('*')]

@pytest.mark.parametrize('spoil,named', [(spoil_text,'2.png'), (spoil_file,'2.png'), (spoil_size,'2.png'), (spoil_index,'2.gif'), (spoil_all,'no pictures')])
@pytest.mark.parametrize('scratch', [False, True])
def test_bad_pictures_are_named_before_training_starts(own, tmp_path, capsys, spoil, named, scratch):
    spoil(own)
    with pytest.raises(SystemExit): main(pictures=str(own), out=str(tmp_path/'out'), from_scratch=scratch)
    assert named in capsys.readouterr().err and not (tmp_path/'out').exists()

def test_a_trained_model_learns_pictures_and_their_words(own, trained, tmp_path, capsys):
    out = tmp_path/'tuned'
    main(pictures=str(own), out=str(out), model=str(trained), tune_steps=2, batch_scale=1/8)
    assert 'wombat' in capsys.readouterr().out
    assert 'wombat' in json.loads((out/'miniai.json').read_text())['words']
    a,b = (training.load_file(f/'unet/diffusion_pytorch_model.safetensors') for f in (trained,out))
    assert a.keys()==b.keys() and not all(torch.equal(a[k], b[k]) for k in a)
    assert StableDiffusionPipeline.from_pretrained(out, safety_checker=None).tokenizer('wombat')
    with pytest.raises(SystemExit, match='already'): main(pictures=str(own), out=str(out), model=str(trained))
    with pytest.raises(SystemExit, match='distilled'): main(pictures=str(own), out=str(tmp_path/'new'), model=str(embedded_model('distilled')))

def test_rehearsal_is_a_part_of_every_batch(own, tokenizer):
    data = FolderData(own)
    common = dict(own=data, own_latents=torch.zeros(4, 4, 16, 16), batch_size=8)
    for rehearsal,n in ((.5,4), (0,8), (1,0)):
        loss = FineTuneLoss(nn.Identity(), nn.Identity(), tokenizer, torch.ones(9, 4, 16, 16), random_rows(9, batch_generator(0)), rehearsal=rehearsal, **common)
        texts,said,latents = loss.batch(batch_generator(0))
        assert sum('wombat' in text for text in texts)==n==int((latents==0).all((1,2,3)).sum())
        assert (said[:n]==unsaid).all() and (said[n:]!=unsaid).any(1).all() # Where own things are isn't known

def test_a_new_model_is_trained_on_your_pictures_alone(own, tmp_path):
    main(pictures=str(own), out=str(tmp_path/'new'), from_scratch=True, **tiny)
    tokens = CLIPTokenizer.from_pretrained(tmp_path/'new/tokenizer').tokenize('a wombat')
    assert tokens==['a</w>','wombat</w>']
    assert json.loads((tmp_path/'new/miniai.json').read_text())['words']==['a','background','blue','green','on','red','white','wombat']

@pytest.mark.slow
def test_twenty_pictures_teach_a_new_thing_and_little_is_forgotten(monkeypatch):
    monkeypatch.syspath_prepend(here.parent/'benchmarks')
    benchmark = runpy.run_path(here.parent/'benchmarks/own_pictures.py')['main']
    before,after,_ = benchmark()['rows']
    assert after['new_thing']>before['new_thing']+.3 and after['old_things']>before['old_things']-.15

def test_unknown_stage(capsys):
    with pytest.raises(SystemExit): main(stage='gan')
    assert "stage is 'gan'" in (said := capsys.readouterr().err) and 'clip, vae, unet, all' in said
