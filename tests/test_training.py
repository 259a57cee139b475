"Training: runs resume where they stopped, what is held out stays out, and a trained folder loads everywhere."
import filecmp,json,re,subprocess,sys
import pytest, torch
from torch import nn
from diffusers import StableDiffusionPipeline
from miniai.core import embedded_model
from miniai.fashion import *
from miniai.training import *
from miniai import training

quick = dict(data='sample', clip_steps=1, vae_steps=2, unet_steps=2)

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    d = tmp_path_factory.mktemp('trained')
    main(out=str(d/'model'), checkpoints=str(d/'checkpoints'), **quick)
    return d

def test_same_layout_as_the_embedded_model(trained):
    names = lambda d: {p.name for p in d.iterdir() if p.is_dir()}
    assert names(trained/'model')==names(embedded_model())

def test_diffusers_and_we_draw_the_same_from_a_trained_folder(trained):
    from miniai.pipeline import StableDiffusion
    ours = StableDiffusion.from_pretrained(trained/'model', device='cpu')
    latents = torch.randn(1,4,8,8, generator=torch.Generator().manual_seed(0))
    theirs = StableDiffusionPipeline.from_pretrained(trained/'model', safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    a = ours('a red bag', latents=latents, num_inference_steps=3, progress=False)[0]
    b = theirs('a red bag', latents=latents, num_inference_steps=3).images[0]
    assert max(abs(x-y) for x,y in zip(a.tobytes(), b.tobytes()))<=1

def test_finished_parts_are_kept(trained):
    files = [p for p in (trained/'model').rglob('*') if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in files}
    main(out=str(trained/'model'), checkpoints=str(trained/'checkpoints'), **quick)
    assert {p: p.stat().st_mtime_ns for p in files}==before

def test_tokenizer_is_reproduced(tmp_path):
    "The library breaks ties between equally frequent pairs by chance, so the order of a few merges may differ, but not what they make of a caption."
    again = train_tokenizer(training.all_captions, tmp_path)
    shipped = training.CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer')
    assert again.get_vocab().keys()==shipped.get_vocab().keys()
    assert all(again.tokenize(o)==shipped.tokenize(o) for o in training.all_captions)
    assert filecmp.cmp(tmp_path/'tokenizer_config.json', embedded_model()/'tokenizer'/'tokenizer_config.json', shallow=False)

def test_the_words_the_model_lists_are_those_of_its_captions():
    listed = json.loads((embedded_model()/'miniai.json').read_text())['words']
    assert set(listed)=={word for text in training.all_captions for word in re.findall(r'[\w-]+', text)}

def test_embedded_weights_are_small_safetensors():
    files = [p for p in embedded_model().rglob('*') if p.is_file()]
    assert sum(p.stat().st_size for p in files)<=25e6
    assert {p.suffix for p in files}<={'.json','.txt','.safetensors','.csv','.md','.png'}

def test_losses_never_see_held_out_combinations():
    unseen = {tuple(r) for r in combinations(held_out=True).tolist()}
    tokenizer = training.CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer')
    pictures = Pictures(*load_fashion_mnist('train', path='sample', quiet=True))
    clip = CLIPLoss(new_clip(tokenizer), tokenizer, pictures)
    for i in range(20): assert not unseen & {tuple(r) for r in clip.batch(batch_generator(i))[0].tolist()}
    assert not unseen & {tuple(r) for r in VAELoss(new_vae(), pictures).rows.tolist()}
    vae = training.AutoencoderKL.from_pretrained(embedded_model()/'vae')
    assert not unseen & {tuple(r) for _,rows in encode_all(vae, pictures, 200) for r in rows.tolist()}

class Noisy(nn.Module):
    "A loss with randomness, an embedding, a matrix and a convolution."
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Embedding(10,16), nn.Unflatten(1,(1,4,4)), nn.Conv2d(1,3,3), nn.Flatten(), nn.Linear(12,1))
    def forward(self, generator):
        x = torch.randint(10, (32,), generator=generator)
        return (self.model(x)[:,0] - x).square().mean()

@pytest.mark.this_machine('bits')
@pytest.mark.parametrize('stop', [1, 10, 25, 39])
def test_resumed_run_equals_one_that_never_stopped(tmp_path, stop):
    whole,part,rest = Noisy(),Noisy(),Noisy()
    straight = [o.loss.item() for o in train(whole, steps=40, lr=0.01)]
    next(o for o in train(part, steps=40, lr=0.01, checkpoint=tmp_path/'c', every=5) if o.step==stop)
    resumed = [o.loss.item() for o in train(rest, steps=40, lr=0.01, checkpoint=tmp_path/'c', every=5)]
    assert len(resumed)==40 - stop//5*5
    assert resumed==pytest.approx(straight[-len(resumed):], rel=1e-5)
    for a,b in zip(whole.parameters(), rest.parameters()): assert torch.allclose(a, b, atol=1e-6)

def test_record_of_a_resumed_run_has_every_step_once(tmp_path):
    class Stop(Exception): pass
    class Interrupted(Noisy):
        calls = 0
        def forward(self, generator):
            self.calls += 1
            if self.calls>33: raise Stop
            return super().forward(generator)
    with pytest.raises(Stop): run(Interrupted(), 'r', tmp_path, report=2, steps=40, lr=0.01, every=5)
    run(Noisy(), 'r', tmp_path, report=2, steps=40, lr=0.01, every=5)
    assert [int(line.split(',')[0]) for line in (tmp_path/'r.csv').read_text().splitlines()]==list(range(2, 41, 2))

def test_frozen_parameters_stay():
    loss = Noisy()
    loss.model[0].requires_grad_(False)
    before = loss.model[0].weight.clone()
    for _ in train(loss, steps=5, lr=0.1): pass
    assert torch.equal(loss.model[0].weight, before)

def test_unknown_stage():
    out = subprocess.run([sys.executable, '-m', 'miniai.training', '--stage', 'gan'], capture_output=True, text=True)
    assert out.returncode and 'clip, vae, unet' in out.stderr and 'Traceback' not in out.stderr

def test_pictures_go_through_a_vae_of_any_precision():
    "As they do on a GPU, where the pipeline keeps its networks in half precision"
    pictures = Pictures(*load_fashion_mnist('test', path='sample', quiet=True))
    x,vae = pictures(combinations()[:4], torch.Generator().manual_seed(0)),training.AutoencoderKL.from_pretrained(embedded_model()/'vae')
    full,(latents,_) = through_vae(vae, x),next(encode_all(vae, pictures, 4))
    vae = vae.half()
    assert through_vae(vae, x).dtype==torch.float32 and (through_vae(vae, x)-full).abs().max()<0.05
    assert torch.allclose(next(encode_all(vae, pictures, 4))[0], latents, atol=0.05*latents.std().item())
