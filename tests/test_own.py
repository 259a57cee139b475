"""What `miniai.own` promises beyond its notebook: the library's pictures from our own parts, strict loading, plain words about bad files, and the command"""
import copy, fcntl, inspect, json, os, pty, re, runpy, shutil, struct, subprocess, sys, termios, warnings
from pathlib import Path

import numpy as np, pytest, torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file

from miniai.core import *
from miniai.own import StableDiffusion, main, samplers

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers
prompt = 'a purple castle on a grey background'


def difference(a, b):
    "The largest difference of two lists of pictures, in 1/255"
    return max(np.abs(np.asarray(x).astype(int) - np.asarray(y)).max() for x,y in zip(a, b, strict=True))


# The library's picture, from own parts alone

@pytest.fixture(scope='module')
def ours(folders): return {name: StableDiffusion.from_pretrained(folder, device='cpu') for name,folder in folders.items()}


@pytest.fixture
def pairs(ours, libraries):
    "Our pipeline and the library's for each folder"
    return {name: (copy.copy(ours[name]), copy.copy(libraries[name])) for name in ours}


pairwise = [(['embedded','sd15','sd21'][(i+j)%3], name, n, [1,7.5][(i+j)%2]) for i,name in enumerate(samplers) for j,n in enumerate([1,7,12])]

@pytest.mark.parametrize('folder,name,n,guidance_scale', pairwise) # Any two of these choices meet in one of the runs
def test_the_librarys_picture_from_own_parts(pairs, folder, name, n, guidance_scale):
    import diffusers
    ours,library = pairs[folder]
    config = {**library.scheduler.config, 'skip_prk_steps':True, 'clip_sample':False}
    library.scheduler = getattr(diffusers, name).from_config(config)
    ours.scheduler = samplers[name].from_config(dict(library.scheduler.config))
    noise = torch.randn(ours.latent_shape(), generator=torch.Generator().manual_seed(3))
    new = lambda: dict(num_inference_steps=n, guidance_scale=guidance_scale, latents=noise.clone(), generator=torch.Generator().manual_seed(1))
    assert difference(ours(prompt, negative_prompt='a cat', **new()), library(prompt, negative_prompt='a cat', **new()).images) <= 1


@pytest.mark.parametrize('folder', ['masked','distilled'])
def test_the_librarys_picture_with_masked_tokens_and_with_distilled_guidance(pairs, folder):
    ours,library = pairs[folder]
    noise = torch.randn(ours.latent_shape(), generator=torch.Generator().manual_seed(3))
    new = lambda: dict(num_inference_steps=7, guidance_scale=4, latents=noise.clone())
    assert difference(ours(prompt, **new()), library(prompt, **new()).images) <= 1


def test_other_architectures_are_refused_by_name(folder):
    index = json.loads((folder/'model_index.json').read_text())
    for kind in 'StableDiffusionXLPipeline','StableDiffusion3Pipeline':
        (folder/'model_index.json').write_text(json.dumps({**index, '_class_name':kind}))
        with pytest.raises(ValueError, match=kind): StableDiffusion.from_pretrained(folder)


def test_what_is_not_implemented_is_refused_by_name(folder):
    file = folder/'unet/config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'addition_embed_type':'text_time'}))
    with pytest.raises(ValueError, match='addition_embed_type'): StableDiffusion.from_pretrained(folder)


# Folders

@pytest.fixture
def folder(folders, tmp_path): return shutil.copytree(folders['sd15'], tmp_path/'model')


weights = {'text_encoder':'model.safetensors', 'unet':'diffusion_pytorch_model.safetensors', 'vae':'diffusion_pytorch_model.safetensors'}


def test_the_environment_names_the_model(folder, monkeypatch):
    monkeypatch.setenv('MINIAI_MODEL', str(folder))
    assert StableDiffusion.from_pretrained(device='cpu').unet.config.cross_attention_dim == 32
    monkeypatch.delenv('MINIAI_MODEL')
    same = StableDiffusion.from_pretrained(device='cpu').unet, StableDiffusion.from_pretrained(embedded_model(), device='cpu').unet
    for a,b in zip(*(net.parameters() for net in same), strict=True): assert torch.equal(a,b)


def test_loading_says_nothing_and_asks_nobody(folder, capfd, monkeypatch):
    import socket
    def refuse(*args, **kwargs): raise AssertionError('the network was asked')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        StableDiffusion.from_pretrained(folder, device='cpu')
    assert capfd.readouterr() == ('','')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_part_has_the_precision_asked_for(folder, dtype):
    for part,file in weights.items():
        save_file({k:v.half() for k,v in load_file(folder/part/file).items()}, folder/part/file, {'format':'pt'})
    sd = StableDiffusion.from_pretrained(folder, device='cpu', dtype=dtype)
    assert {p.dtype for net in (sd.text_encoder,sd.unet,sd.vae) for p in net.parameters()} == {dtype}
    assert not any(net.training for net in (sd.text_encoder,sd.unet,sd.vae))
    if dtype!=torch.float16: assert sd(prompt, seed=0, num_inference_steps=2)[0].size == (64,64)


def test_half_precision_on_disk_is_full_precision_in_memory():
    assert {v.dtype for v in load_file(embedded_model()/'unet'/weights['unet']).values()} == {torch.float16}
    sd = StableDiffusion.from_pretrained(embedded_model(), device='cpu')
    assert {p.dtype for net in (sd.text_encoder,sd.unet,sd.vae) for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize('part', ['tokenizer','text_encoder','unet','scheduler','vae'])
def test_a_missing_part_is_named(folder, part):
    shutil.rmtree(folder/part)
    with pytest.raises(FileNotFoundError, match=f'no {part}/'): StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize('file', ['tokenizer/vocab.json', 'tokenizer/merges.txt', 'text_encoder/config.json', 'unet/diffusion_pytorch_model.safetensors',
    'vae/config.json', 'scheduler/scheduler_config.json'])
def test_a_missing_file_is_named(folder, file):
    (folder/file).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(file)): StableDiffusion.from_pretrained(folder)


def test_an_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='tokenizer'): StableDiffusion.from_pretrained(tmp_path)
    for path in tmp_path/'nowhere', './nowhere', 'nowhere':
        with pytest.raises(FileNotFoundError, match='no folder'): StableDiffusion.from_pretrained(path)
    with pytest.raises(TypeError, match='int'): StableDiffusion.from_pretrained(3)


@pytest.mark.parametrize('part,keep', [*[('unet',keep) for keep in (0, 5, 100, .5, -1)], ('vae',.5), ('text_encoder',.5)])
def test_a_truncated_file_is_named(folder, part, keep):
    file = folder/part/weights[part]
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data)*keep) if isinstance(keep,float) else keep])
    with pytest.raises(ValueError, match=re.escape(str(file))): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('part,other', [(a,b) for a in weights for b in weights if a!=b])
def test_a_swapped_file_is_named(folder, part, other, capfd):
    file = folder/part/weights[part]
    shutil.copy(folder/other/weights[other], file)
    with pytest.raises(ValueError, match=re.escape(str(file))): StableDiffusion.from_pretrained(folder, device='cpu')
    assert capfd.readouterr() == ('','')


@pytest.mark.parametrize('part', weights)
def test_weights_of_another_size_are_named(folder, folders, part):
    file = folder/part/weights[part]
    shutil.copy(folders['embedded']/part/weights[part], file)
    with pytest.raises(ValueError, match=re.escape(str(file))): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('part', weights)
@pytest.mark.parametrize('change', ['missing','extra'])
def test_a_tensor_too_few_or_too_many_is_named(folder, part, change):
    file = folder/part/weights[part]
    tensors = load_file(file)
    name = sorted(tensors)[3]
    if change=='missing': tensors.pop(name)
    else: tensors[name := 'not.a.weight'] = torch.zeros(3)
    save_file(tensors, file, {'format':'pt'})
    with pytest.raises(ValueError, match=f'{re.escape(str(file))}.*{re.escape(name)}'): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('part', ['unet','vae','text_encoder'])
def test_a_part_of_another_model_is_named(folder, folders, part):
    shutil.rmtree(folder/part)
    shutil.copytree(folders['sd21']/part, folder/part)
    if part=='vae':
        AutoencoderKL(down_block_types=('DownEncoderBlock2D',)*4, up_block_types=('UpDecoderBlock2D',)*4, block_out_channels=(8,8,16,16), norm_num_groups=4,
            latent_channels=8).save_pretrained(folder/part)
    with pytest.raises(ValueError, match="don't fit each other"): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('text', ['', '{', '[]', '{"_class_name": "os"}', '{"_class_name": "DiffusionPipeline"}', '{"_class_name": "NoSuchScheduler"}', '{}'])
def test_a_broken_scheduler_is_named(folder, text):
    file = folder/'scheduler/scheduler_config.json'
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(file.parent))): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('part', ['text_encoder','unet','vae'])
@pytest.mark.parametrize('text', ['', '{"_class_name":', '[]'])
def test_a_broken_config_is_named(folder, part, text):
    (folder/part/'config.json').write_text(text)
    with pytest.raises(ValueError, match=part): StableDiffusion.from_pretrained(folder, device='cpu')


def test_a_broken_vocabulary_is_named(folder):
    (folder/'tokenizer/vocab.json').write_text('{')
    with pytest.raises(ValueError, match='tokenizer'): StableDiffusion.from_pretrained(folder, device='cpu')


def test_pickles_are_never_opened(folder, tmp_path):
    class Trap:
        def __reduce__(self): return Path.touch, (tmp_path/'sprung',)
    for part,file in weights.items():
        (folder/part/file).unlink()
        torch.save(Trap(), folder/part/file.replace('.safetensors','.bin'))
        torch.save(Trap(), folder/part/'pytorch_model.bin')
    with pytest.raises(FileNotFoundError, match='safetensors'): StableDiffusion.from_pretrained(folder, device='cpu')
    for part,file in weights.items(): torch.save(Trap(), folder/part/file)
    with pytest.raises(ValueError, match='safetensors'): StableDiffusion.from_pretrained(folder, device='cpu')
    assert not (tmp_path/'sprung').exists()


def test_code_in_a_folder_is_not_run(folder, tmp_path):
    index = json.loads((folder/'model_index.json').read_text())
    (folder/'model_index.json').write_text(json.dumps({**index, 'unet':['evil','Evil']}))
    for part in 'unet','text_encoder','tokenizer':
        (folder/part/'evil.py').write_text(f"open({str(tmp_path/'sprung')!r}, 'w')")
        for name in 'config.json','tokenizer_config.json':
            if (file := folder/part/name).exists(): file.write_text(json.dumps({**json.loads(file.read_text()), 'auto_map':{'AutoModel':'evil.Evil','AutoTokenizer':['evil.Evil',None]}}))
    try: StableDiffusion.from_pretrained(folder, device='cpu')
    except ValueError: pass
    assert not (tmp_path/'sprung').exists()


@pytest.mark.parametrize('fast,model,n', [(False,'emoji',5), (True,'one_step',None)])
def test_the_command_draws_the_same_with_the_librarys_parts(fast, model, n, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = dict(seed=1, num_inference_steps=n)
    for name,library in ('ours.png',False), ('theirs.png',True): main('a cat', fast=fast, library=library, out=name, **how)
    expected = StableDiffusion.from_pretrained(embedded_model(model))('a cat', **how)
    for name in 'ours.png','theirs.png': assert difference([Image.open(name)], expected) <= 1


def test_a_variant_passes_through(folder):
    for part,file in weights.items():
        tensors = {k:v.half() for k,v in load_file(folder/part/file).items()}
        save_file(tensors, folder/part/file.replace('.safetensors','.fp16.safetensors'), {'format':'pt'})
        (folder/part/file).unlink()
    sd = StableDiffusion.from_pretrained(folder, device='cpu', variant='fp16')
    assert sd.unet.dtype == torch.float32
    with pytest.raises(FileNotFoundError, match='safetensors'): StableDiffusion.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match='bf16.safetensors'): StableDiffusion.from_pretrained(folder, variant='bf16')


def test_a_hub_id_is_fetched_once_and_loaded_as_a_folder(folder, monkeypatch):
    import huggingface_hub
    asked = []
    def fetch(repo, *, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(folder)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
    assert StableDiffusion.from_pretrained('somebody/model', device='cpu').unet.config.cross_attention_dim == 32
    (repo,patterns), = asked
    assert repo == 'somebody/model'
    assert 'unet/diffusion_pytorch_model.safetensors' in patterns
    assert not any(re.search(r'bin|ckpt|\.py|\*\.safetensors', p) for p in patterns)


def test_a_hub_id_that_cannot_be_had_is_explained(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match="'no-such-user/no-such-model' is no folder"): StableDiffusion.from_pretrained('no-such-user/no-such-model')


def test_old_checkpoints_load(folder):
    "Stable Diffusion 1.5's files hold position ids in the text encoder, and other names in the VAE's attention"
    file = folder/'text_encoder'/weights['text_encoder']
    tensors = load_file(file)
    length = next(len(v) for k,v in tensors.items() if 'position_embedding' in k)
    tensors['text_model.embeddings.position_ids'] = torch.arange(length)[None]
    save_file(tensors, file, {'format':'pt'})
    file = folder/'vae'/weights['vae']
    old = {'to_q':'query', 'to_k':'key', 'to_v':'value', 'to_out.0':'proj_attn'}
    def renamed(k):
        for new,name in old.items(): k = k.replace(f'attentions.0.{new}.', f'attentions.0.{name}.')
        return k
    before = load_file(file)
    after = {renamed(k):v for k,v in before.items()}
    assert set(after)!=set(before)
    save_file(after, file, {'format':'pt'})
    vae = StableDiffusion.from_pretrained(folder, device='cpu').vae
    for k,v in vae.state_dict().items(): assert torch.equal(v, before[k])


# The command

root = str(Path(__file__).resolve().parents[1])
environment = {**os.environ, 'PYTHONPATH':root}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    "`python -m miniai` in this process, which has imported everything already: its exit code, and what it writes"
    monkeypatch.chdir(tmp_path)
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['miniai', *map(str, args)])
        capsys.readouterr()
        try: code = runpy.run_module('miniai', run_name='__main__') and 0
        except SystemExit as e: code = e.code or 0
        return code, *capsys.readouterr()
    return run


def test_the_command_draws_a_picture_without_the_libraries(sd, tmp_path):
    "In a process of its own, which says what it has imported"
    code = """import runpy, sys
runpy.run_module('miniai', run_name='__main__', alter_sys=True)
print([m for m in ('diffusers','transformers','matplotlib','IPython') if m in sys.modules])"""
    args = prompt, '--seed', '42', '--num-inference-steps', '3', '--guidance-scale', '4', '--negative-prompt', 'a cat', '--out', 'castle.png'
    done = subprocess.run([sys.executable, '-c', code, *args], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode==0 and done.stderr=='', done.stderr
    said,imported = done.stdout.splitlines()
    assert said.split(' (seed')[0] == str(tmp_path/'castle.png') and imported=='[]'
    expected = sd(prompt, seed=42, num_inference_steps=3, guidance_scale=4, negative_prompt='a cat')
    assert difference([Image.open(tmp_path/'castle.png')], expected) <= 1
    assert [p.name for p in tmp_path.iterdir()] == ['castle.png']


@pytest.mark.parametrize('args,size', [(['a cat','a dog'], (2*64+2,64)), (['a cat','a dog','--strip'], (8*66-2,2*66-2)), (['a cat','--strip'], (8*66-2,64))])
def test_several_prompts_and_strips(args, size, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompts,strip = [a for a in args if a!='--strip'], '--strip' in args
    main(*prompts, strip=strip, seed=1, num_inference_steps=9)
    assert Image.open('miniai.png').size == size
    assert 'seed 1' in capsys.readouterr().out


def test_the_seed_that_was_drawn_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main('a cat', num_inference_steps=2)
    seed = int(re.search(r'seed (\d+)', capsys.readouterr().out)[1])
    first = Image.open('miniai.png').copy()
    main('a cat', num_inference_steps=2, seed=seed)
    assert difference([first], [Image.open('miniai.png')]) <= 1


def test_the_command_computes_on_one_thread_and_the_library_leaves_them_alone(sd, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, 'set_num_threads', asked.append)
    monkeypatch.chdir(tmp_path)
    for name in 'OMP_NUM_THREADS','MINIAI_MODEL': monkeypatch.delenv(name, raising=False)
    sd('a cat', num_inference_steps=1)
    assert asked == []
    main('a cat', num_inference_steps=1)
    assert asked == [1]
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    main('a cat', num_inference_steps=1)
    assert asked == [1]


@pytest.mark.parametrize('args,words', [
    ([], 'say what to draw'),
    (['a cat', '--num-inference-steps', 0], 'at least 1'),
    (['a cat', '--out', 'nowhere/a.png'], 'nowhere'),
    (['a cat', '--fast', '--model', 'folder'], 'leave out --model'),
    (['a cat', '--steps', 3], 'unrecognized arguments')])
def test_the_command_says_what_is_wrong_in_a_sentence(command, args, words, tmp_path):
    code,_,said = command(*args)
    assert code==2 and words in said and 'Traceback' not in said
    if 'usage' not in said: assert said.startswith('miniai: ') and len(said.splitlines())==1
    assert not list(tmp_path.iterdir())


def test_the_command_warns_of_words_unknown_or_cut_off(command):
    code,_,said = command(f'{prompt} '*20 + 'spoon', '--seed', 0, '--num-inference-steps', 1)
    assert code==0 and re.fullmatch("miniai: this small model .*never seen 'spoon'; .*\nminiai: the prompt is longer.*spoon'\n", said), said


def test_the_command_warns_of_a_negative_prompt_that_will_be_ignored(command):
    code,_,said = command('a cat', '--fast', '--negative-prompt', 'red', '--num-inference-steps', 1)
    assert code==0 and said=='miniai: this U-Net has guidance built in and ignores negative prompts\n'


def test_help_names_every_option(command):
    code,said,_ = command('--help')
    for name in inspect.signature(main).parameters: assert name=='prompts' or f"--{name.replace('_','-')}" in said
    assert code==0


def in_terminal(*args, cwd, **env):
    "What `python -m miniai` writes to a terminal"
    main_end,other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack('4H', 40, 100, 0, 0))
    process = subprocess.Popen([sys.executable, '-m', 'miniai', *args], cwd=cwd, stdin=other_end, stdout=other_end, stderr=other_end, env={**environment, **env})
    os.close(other_end)
    written = b''
    while True:
        try: data = os.read(main_end, 1<<16)
        except OSError: break
        if not data: break
        written += data
    os.close(main_end)
    assert process.wait()==0, written
    return written.decode()


def test_a_terminal_sees_progress_and_the_picture(tmp_path):
    written = in_terminal('a cat', '--seed', '1', '--num-inference-steps', '20', cwd=tmp_path, COLORTERM='truecolor')
    assert '/20' in written and written.count('▀')==64*32


def test_only_a_terminal_of_many_colours_gets_the_picture(command, monkeypatch):
    run = 'a cat', '--seed', 1, '--num-inference-steps', 1
    for colours,terminal in ('truecolor',False), ('',True), ('truecolor',True):
        monkeypatch.setenv('COLORTERM', colours)
        with monkeypatch.context() as m:
            m.setattr(sys.stdout, 'isatty', lambda: terminal)
            assert ('▀' in command(*run)[1]) == (terminal and colours=='truecolor')
