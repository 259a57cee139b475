"What `miniai.pipeline` promises beyond its notebook: the library's pictures, every image its own, and plain words about bad input"
import copy, dataclasses, fcntl, functools, inspect, json, math, os, pty, re, shutil, struct, subprocess, sys, termios, warnings
from pathlib import Path

import diffusers, numpy as np, pytest, torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from miniai.core import *
from miniai.pipeline import *
from miniai.pipeline import _noise, _sources
from models import random_folder

prompt = 'a photo of a red ankle boot on a blue background'
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers
schedulers = ['DDIM', 'PNDM', 'LMSDiscrete', 'EulerDiscrete', 'EulerAncestralDiscrete', 'DPMSolverMultistep']


def scheduler_like(scheduler, name, **kwargs):
    "One of diffusers' schedulers for the noise of another, as Stable Diffusion sets it up"
    return getattr(diffusers, f'{name}Scheduler').from_config({**scheduler.config, 'skip_prk_steps':True, **kwargs})


def difference(a, b):
    "The largest difference of two lists of pictures, in 1/255"
    return max(np.abs(np.asarray(x).astype(int) - np.asarray(y)).max() for x,y in zip(a, b, strict=True))


def close(a, b, tol=1e-4):
    "Whether two tensors differ little, measured by the larger numbers in them"
    return (a-b).abs().max()<=tol*b.abs().max()


# The library's picture

tokens = json.loads((embedded_model()/'tokenizer/vocab.json').read_text())
short = dict(vocab_size=len(tokens), max_position_embeddings=24, bos_token_id=tokens['<|startoftext|>'], eos_token_id=tokens['<|endoftext|>'], pad_token_id=tokens['<|endoftext|>'])
small = dict(sample_size=8, layers_per_block=1, norm_num_groups=8, down_block_types=('CrossAttnDownBlock2D','DownBlock2D'), up_block_types=('UpBlock2D','CrossAttnUpBlock2D'))
text15 = dict(short, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act='quick_gelu')
text21 = dict(short, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, hidden_act='gelu', projection_dim=16)
unet15 = dict(small, block_out_channels=(16,32), cross_attention_dim=32, attention_head_dim=4)
unet21 = dict(small, block_out_channels=(16,32), cross_attention_dim=48, attention_head_dim=[2,4], use_linear_projection=True, upcast_attention=True)
vae = dict(block_out_channels=(8,8,16,16), norm_num_groups=4, sample_size=64, layers_per_block=1)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Model folders by name"
    new = lambda name,text,unet,**scheduler: random_folder(tmp_path_factory.mktemp(name), text, unet, vae, scheduler)
    return dict(embedded=embedded_model(),
        sd15=new('sd15', text15, unet15),
        sd21=new('sd21', text21, unet21, prediction_type='v_prediction'),
        masked=new('masked', dict(text15, use_attention_mask=True), unet15),
        distilled=new('distilled', text15, dict(unet15, time_cond_proj_dim=24)))


@pytest.fixture(scope='module')
def pairs(folders):
    "Our pipeline and the library's for each folder, loaded from it separately"
    def pair(folder):
        library = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        library.set_progress_bar_config(disable=True)
        return StableDiffusion.from_pretrained(folder, device='cpu'), library
    return {name:pair(folder) for name,folder in folders.items()}


def both(pair, scheduler, prompts, negatives, n, **kwargs):
    "The same pictures from us and from the library"
    ours,library = pair
    ours.scheduler = scheduler
    library.scheduler = copy.deepcopy(scheduler)
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(n))
    new = lambda: dict(num_inference_steps=n, latents=noise.clone(), generator=torch.Generator().manual_seed(1), **kwargs)
    return ours(prompts, negative_prompt=negatives, **new()), library(prompts, negative_prompt=negatives, **new()).images


pairwise = [(['embedded','sd15','sd21'][(i+j)%3], name, n, [1,7.5][(i+j)%2]) for i,name in enumerate(schedulers) for j,n in enumerate([1,7,20])]

@pytest.mark.parametrize('folder,name,n,guidance_scale', pairwise) # Any two of these choices meet in one of the runs
def test_the_librarys_picture(pairs, folder, name, n, guidance_scale):
    scheduler = scheduler_like(pairs[folder][0].scheduler, name)
    ours,library = both(pairs[folder], scheduler, [prompt], ['a bag'], n, guidance_scale=guidance_scale)
    assert difference(ours, library) <= 1


@pytest.mark.parametrize('folder', ['embedded','sd15','sd21','masked','distilled'])
@pytest.mark.parametrize('change', [dict(guidance_scale=3), dict(num_inference_steps=6), dict(negative_prompt='a coat'), dict(seed=1)])
def test_another_picture_would_be_noticed(pairs, folder, change):
    if folder=='distilled' and 'negative_prompt' in change: pytest.skip('such a network is not asked for the negative prompt')
    ours = pairs[folder][0]
    run = dict(prompt=prompt, seed=0, num_inference_steps=7)
    assert difference(ours(**run), ours(**{**run, **change})) > 1


@pytest.mark.parametrize('guidance_scale', [-1, 0, .5, 1.01])
def test_the_librarys_picture_around_no_guidance(pairs, guidance_scale):
    assert difference(*both(pairs['embedded'], pairs['embedded'][0].scheduler, [prompt], ['a bag'], 5, guidance_scale=guidance_scale)) <= 1


@pytest.mark.parametrize('name', schedulers)
@pytest.mark.parametrize('folder', ['embedded','masked','distilled'])
def test_the_librarys_pictures_of_a_batch(pairs, folder, name):
    scheduler = scheduler_like(pairs[folder][0].scheduler, name)
    ours,library = both(pairs[folder], scheduler, [prompt,'a bag'], ['a coat',''], 7, guidance_scale=4)
    assert difference(ours, library) <= 1


@pytest.mark.parametrize('config', [dict(use_karras_sigmas=True), dict(timestep_spacing='trailing'), dict(timestep_spacing='linspace')])
@pytest.mark.parametrize('name', ['EulerDiscrete','DPMSolverMultistep','LMSDiscrete'])
def test_the_librarys_picture_with_other_noise_levels(pairs, name, config):
    scheduler = scheduler_like(pairs['embedded'][0].scheduler, name, **config)
    assert difference(*both(pairs['embedded'], scheduler, [prompt], [''], 7)) <= 1


@pytest.mark.parametrize('n', [7,20])
def test_the_librarys_picture_with_the_first_steps_of_pndm(pairs, n):
    scheduler = scheduler_like(pairs['embedded'][0].scheduler, 'PNDM', skip_prk_steps=False)
    assert difference(*both(pairs['embedded'], scheduler, [prompt], [''], n)) <= 1
    assert len(scheduler.timesteps) > n+1


@pytest.mark.parametrize('height,width', [(64,96), (72,64), (8,128)])
def test_the_librarys_picture_in_other_sizes(pairs, height, width):
    ours,library = pairs['embedded']
    library.scheduler = ours.scheduler = diffusers.DDIMScheduler.from_config(ours.scheduler.config)
    size = dict(height=height, width=width, num_inference_steps=5)
    images = ours(prompt, seed=3, **size)
    assert images[0].size == (width,height)
    assert difference(images, library(prompt, generator=torch.Generator().manual_seed(3), **size).images) <= 1


def test_the_librarys_picture_of_a_prompt_that_is_too_long(pairs):
    with pytest.warns(UserWarning, match='cut off'): ours,library = both(pairs['embedded'], pairs['embedded'][0].scheduler, [prompt*20], [''], 3)
    assert difference(ours, library) <= 1


def test_distilled_guidance_takes_one_evaluation_a_step(pairs, monkeypatch):
    ours = pairs['distilled'][0]
    sizes = []
    hook = ours.unet.register_forward_pre_hook(lambda module,args: sizes.append(len(args[0])))
    ours(prompt, seed=0, num_inference_steps=3, guidance_scale=7.5)
    hook.remove()
    assert sizes == [1]*len(ours.scheduler.timesteps)


# Every image its own

@pytest.mark.parametrize('name', schedulers + ['DDPM'])
def test_an_image_is_the_same_alone_and_in_a_batch(sd, name):
    own = copy.copy(sd)
    own.scheduler = scheduler_like(sd.scheduler, name)
    prompts = [f'a photo of a {c} dress on a white background' for c in ('red','green','blue')]
    run = dict(num_inference_steps=6, guidance_scale=3)
    batch = own(prompts, seed=5, **run)
    alone = [own(p, seed=5+i, **run)[0] for i,p in enumerate(prompts)]
    turned = own(prompts[::-1], seed=[7,6,5], **run)[::-1]
    assert difference(batch, alone) <= 1 and difference(batch, turned) <= 1


@given(st.lists(st.integers(0, 2**63-1), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_noise_depends_on_its_own_seed_alone(seeds):
    noise = _noise((len(seeds),4,8,8), _sources(seeds, None, len(seeds)))
    for x,s in zip(noise, seeds): assert torch.equal(x[None], _noise((1,4,8,8), _sources(s, None, 1)))


def test_the_global_state_of_randomness_is_left_alone(sd):
    sd.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(sd.scheduler.config)
    before = torch.get_rng_state()
    sd(prompt, seed=0, num_inference_steps=2)
    sd.scheduler = diffusers.DDIMScheduler.from_config(sd.scheduler.config)
    assert torch.equal(before, torch.get_rng_state())


def test_noise_from_any_source_with_randn(sd):
    class Source:
        def randn(self, *shape): return np.random.default_rng(3).standard_normal(shape)
    noise = torch.tensor(np.random.default_rng(3).standard_normal((1,4,8,8))).float()
    run = dict(num_inference_steps=3)
    assert difference(sd(prompt, generator=Source(), **run), sd(prompt, latents=noise, **run)) <= 1


def test_a_generator_or_a_list_of_them(sd):
    run = dict(num_inference_steps=3)
    new = lambda s: torch.Generator().manual_seed(s)
    assert difference(sd([prompt]*2, generator=[new(4),new(5)], **run), sd([prompt]*2, seed=4, **run)) <= 1
    assert difference(sd(prompt, generator=new(4), **run), sd(prompt, seed=4, **run)) <= 1


def test_latents_are_not_changed(sd):
    latents = torch.randn(1,4,8,8)
    before = latents.clone()
    sd(prompt, latents=latents, num_inference_steps=3)
    assert torch.equal(latents, before)


def test_latents_give_the_size(sd):
    assert sd(prompt, latents=torch.randn(1,4,8,12), num_inference_steps=1)[0].size == (96,64)


# The generator

def run(sd, **kwargs):
    "A short run of `denoise`"
    embeddings = encode_text([prompt,''], sd.tokenizer, sd.text_encoder)
    args = dict(latents=_noise((1,4,8,8), _sources(0, None, 1)), embeddings=embeddings[:1], unet=sd.unet, scheduler=sd.scheduler,
        uncond_embeddings=embeddings[1:], num_inference_steps=5)
    return denoise(**{**args, **kwargs})


def test_denoise_is_a_generator_of_steps(sd):
    steps = run(sd)
    assert inspect.isgenerator(steps)
    steps = list(steps)
    assert [s.index for s in steps] == list(range(5))
    assert [s.timestep.item() for s in steps] == sd.scheduler.timesteps.tolist()
    assert all(isinstance(s, Step) and s.latents.shape==s.noise_pred.shape==(1,4,8,8) for s in steps)
    assert [f.name for f in dataclasses.fields(Step)][:4] == ['index','timestep','latents','noise_pred']


@pytest.mark.parametrize('name', schedulers)
@pytest.mark.parametrize('n', [1,2,20])
def test_one_scheduler_step_and_one_scaling_for_each_timestep(sd, name, n, monkeypatch):
    scheduler = scheduler_like(sd.scheduler, name)
    calls = []
    for method in 'step','scale_model_input':
        def counted(*args, f=getattr(scheduler, method), method=method, **kwargs):
            calls.append(method)
            return f(*args, **kwargs)
        monkeypatch.setattr(scheduler, method, functools.wraps(getattr(scheduler, method))(counted))
    steps = list(run(sd, scheduler=scheduler, num_inference_steps=n))
    assert len(steps) == len(scheduler.timesteps)
    assert calls == ['scale_model_input','step']*len(steps)


def test_nobody_is_asked_before_the_first_step(sd):
    sd.scheduler.set_timesteps(3)
    steps = run(sd)
    assert len(sd.scheduler.timesteps)==3
    next(steps)
    assert len(sd.scheduler.timesteps)==5


def test_gradients_are_off_inside_and_on_outside(sd):
    assert torch.is_grad_enabled()
    seen = []
    hook = sd.unet.register_forward_hook(lambda *args: seen.append(torch.is_grad_enabled()))
    for step in run(sd):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        weight = torch.ones(1, requires_grad=True)
        (step.latents*weight).sum().backward()
        assert weight.grad is not None and not step.latents.is_inference() and not step.noise_pred.is_inference()
    hook.remove()
    assert seen == [False]*5
    with torch.no_grad():
        for step in run(sd): assert not torch.is_grad_enabled()


def test_gradients_are_on_again_after_a_break_and_after_an_error(sd):
    for step in run(sd): break
    assert torch.is_grad_enabled()
    hook = sd.unet.register_forward_hook(lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): next(run(sd))
    hook.remove()
    assert torch.is_grad_enabled()


def test_every_run_starts_the_scheduler_afresh(sd):
    scheduler = diffusers.LMSDiscreteScheduler.from_config(sd.scheduler.config)
    first = list(run(sd, scheduler=scheduler))
    for step in run(sd, scheduler=scheduler, num_inference_steps=9):
        if step.index==4: break
    assert close(list(run(sd, scheduler=scheduler))[-1].latents, first[-1].latents)


def test_two_runs_side_by_side_with_a_scheduler_each(sd):
    scheduler = lambda: diffusers.PNDMScheduler.from_config(sd.scheduler.config)
    alone = list(run(sd, scheduler=scheduler()))[-1].latents
    *_,(a,b) = zip(run(sd, scheduler=scheduler()), run(sd, scheduler=scheduler()))
    assert close(a.latents, alone) and close(b.latents, alone)


def test_what_the_consumer_does_to_the_latents_holds(sd):
    steps = run(sd)
    next(steps).latents.zero_()
    assert not close(next(steps).latents, list(run(sd))[1].latents, 1e-3)


def test_without_guidance_the_network_is_asked_once(sd):
    sizes = []
    hook = sd.unet.register_forward_pre_hook(lambda module,args: sizes.append(len(args[0])))
    for kwargs in dict(guidance_scale=1), dict(guidance_scale=-2), dict(uncond_embeddings=None): list(run(sd, num_inference_steps=2, **kwargs))
    list(run(sd, num_inference_steps=2))
    hook.remove()
    assert sizes == [1,1]*3 + [2,2]


def test_parts_are_replaceable(sd):
    own = copy.copy(sd)
    class Backwards(torch.nn.Module):
        config = sd.unet.config
        def forward(self, x, t, encoder_hidden_states): return sd.unet(-x, t, encoder_hidden_states=encoder_hidden_states)
    own.unet = Backwards()
    assert difference(own(prompt, seed=0, num_inference_steps=3), sd(prompt, seed=0, num_inference_steps=3)) > 1


# What the consumer of a step may change

@pytest.mark.parametrize('name', schedulers)
def test_only_what_is_assigned_changes_the_run(sd, name):
    scheduler = scheduler_like(sd.scheduler, name)
    coat = encode_text('a coat', sd.tokenizer, sd.text_encoder)
    def last(change):
        for step in run(sd, scheduler=scheduler, generator=torch.Generator().manual_seed(0)):
            if step.index==1: change(step)
        return step.latents
    plain = last(lambda step: None)
    assert close(plain, last(lambda step: setattr(step, 'latents', step.latents.clone())))
    for name,value in dict(latents=torch.ones(1,4,8,8), guidance_scale=3., embeddings=coat, uncond_embeddings=coat).items():
        assert not close(plain, last(lambda step: setattr(step, name, value)), 1e-3)


def test_what_a_step_is_given_is_what_the_network_gets(sd):
    asked = []
    hook = sd.unet.register_forward_pre_hook(lambda module,args,kwargs: asked.append((args[0].clone(), kwargs['encoder_hidden_states'].clone())), with_kwargs=True)
    other = encode_text(['a coat','a bag'], sd.tokenizer, sd.text_encoder)
    for step in run(sd):
        if step.index==0: step.guidance_scale = 1
        if step.index==1: step.latents,step.embeddings = torch.zeros_like(step.latents),other[:1]
        if step.index==2: step.guidance_scale,step.uncond_embeddings = 2.,other[1:]
    hook.remove()
    assert [len(x) for x,_ in asked] == [2,1,1,2,2]
    assert torch.equal(asked[2][0], torch.zeros(1,4,8,8)) and torch.equal(asked[2][1], other[:1])
    assert torch.equal(asked[3][1], other.flip(0))


def test_guidance_of_each_step_is_the_one_it_was_given(sd):
    "By hand, with DDIM, which remembers nothing"
    embeddings = encode_text([prompt,''], sd.tokenizer, sd.text_encoder)
    x = _noise((1,4,8,8), _sources(0, None, 1))
    for step in run(sd, guidance_scale=1.5):
        t = step.timestep
        with torch.no_grad(): text,uncond = (sd.unet(x, t, encoder_hidden_states=e[None]).sample for e in embeddings)
        expected = uncond + (1.5+step.index)*(text-uncond)
        assert step.guidance_scale==1.5+step.index and close(step.noise_pred, expected)
        x = step.latents
        step.guidance_scale += 1


def test_a_step_can_end_the_run(sd):
    for step in (steps := run(sd)): step.stop = step.index==2
    assert step.index==2 and next(steps, None) is None


@pytest.mark.parametrize('start', [0,1,3,4])
@pytest.mark.parametrize('name', ['DDIM','EulerDiscrete'])
def test_a_run_can_begin_halfway(sd, name, start):
    scheduler = scheduler_like(sd.scheduler, name)
    whole = list(run(sd, scheduler=scheduler))
    begin = _noise((1,4,8,8), _sources(0, None, 1))*scheduler.init_noise_sigma if start==0 else whole[start-1].latents
    rest = list(run(sd, scheduler=scheduler, latents=begin, start=start))
    assert [step.index for step in rest] == list(range(5-start)) and torch.equal(rest[0].timesteps, scheduler.timesteps[start:])
    assert close(rest[-1].latents, whole[-1].latents)


# Callbacks

def with_callbacks(sd, *callbacks): return StableDiffusion(**vars(sd), callbacks=list(callbacks))


def test_callbacks_see_each_step_in_order_before_the_consumer(sd):
    seen = []
    a,b = (lambda step,name=name: seen.append((name,step.index)) for name in 'ab')
    for step in with_callbacks(sd, a, b).steps(prompt, seed=0, num_inference_steps=3): seen.append(('loop',step.index))
    assert seen == [(name,i) for i in range(3) for name in ('a','b','loop')]


def test_callbacks_that_only_watch_change_nothing(sd):
    assert difference(with_callbacks(sd, lambda step: True)(prompt, seed=0, num_inference_steps=4), sd(prompt, seed=0, num_inference_steps=4)) <= 1


def test_a_callback_sees_what_the_one_before_it_did(sd):
    def double(step): step.guidance_scale *= 2
    steps = list(with_callbacks(sd, double, double).steps(prompt, seed=0, num_inference_steps=3, guidance_scale=1.))
    assert [step.guidance_scale for step in steps] == [4.,16.,64.]


def test_guidance_can_begin_late(sd):
    "A run that begins without guidance still knows the negative prompt"
    def late(step): step.guidance_scale = 7.5
    args = dict(seed=0, num_inference_steps=4, guidance_scale=1)
    plain,guided = sd(prompt, **args),with_callbacks(sd, late)(prompt, **args)
    assert difference(plain, guided) > 1
    assert difference(guided, with_callbacks(sd, late)(prompt, negative_prompt='a red bag', **args)) > 1


def test_a_callback_can_end_the_run(sd):
    def stop(step): step.stop = step.index==1
    own = with_callbacks(sd, stop)
    assert len(list(own.steps(prompt, num_inference_steps=6))) == 2
    second = [step.latents for step in sd.steps(prompt, seed=0, num_inference_steps=6)][1]
    assert difference(own(prompt, seed=0, num_inference_steps=6), decode(second, sd.vae)) <= 1


@pytest.mark.parametrize('kind', ['function','lambda','object','method','assignment'])
def test_a_callback_that_fails_is_named_and_the_run_ends(sd, kind):
    class Fault:
        def __call__(self, step): self.raise_at_two(step)
        def raise_at_two(self, step):
            if step.index==2: raise KeyError('no such thing')
    def wrong(step): step.latents = step.latents[:,:1]
    callback,name = dict(function=(Fault().raise_at_two.__func__.__get__(Fault()),'raise_at_two'), object=(Fault(),'Fault'), method=(Fault().raise_at_two,'raise_at_two'),
        assignment=(wrong,'wrong'), **{'lambda':(lambda step: 1/(2-step.index),'<lambda>')})[kind]
    steps = with_callbacks(sd, lambda step: None, callback).steps(prompt, seed=0, num_inference_steps=5)
    inner = steps.gi_frame.f_locals['steps']
    with pytest.raises(RuntimeError, match=fr'callbacks\[1\], {re.escape(name)}, failed at step {0 if kind=="assignment" else 2} with') as caught: list(steps)
    assert type(caught.value.__cause__) in (KeyError,ZeroDivisionError,ValueError)
    assert inner.gi_frame is None and next(steps, None) is None and torch.is_grad_enabled()
    assert len(list(sd.steps(prompt, num_inference_steps=2))) == 2


def test_leaving_the_loop_ends_the_run_behind_the_callbacks(sd):
    steps = with_callbacks(sd, lambda step: None).steps(prompt, num_inference_steps=5)
    next(steps)
    inner = steps.gi_frame.f_locals['steps']
    steps.close()
    assert inner.gi_frame is None


def test_ctrl_c_in_a_callback_stays_ctrl_c(sd):
    def stop(step): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): with_callbacks(sd, stop)(prompt, num_inference_steps=2)


def test_callbacks_can_be_given_later(sd):
    own,seen = StableDiffusion(**vars(sd)),[]
    own.callbacks = [seen.append]
    own(prompt, num_inference_steps=2)
    assert len(seen)==2 and not sd.callbacks and not StableDiffusion.callbacks


# The call

def test_signatures(sd):
    parameters = lambda f: {k:p.default for k,p in inspect.signature(f).parameters.items()}
    empty = inspect.Parameter.empty
    assert parameters(sd.__call__) == dict(prompt=empty, negative_prompt='', num_inference_steps=50, guidance_scale=None, height=None, width=None,
        generator=None, seed=None, latents=None, start=None, progress=True)
    assert parameters(StableDiffusion.from_pretrained) == dict(path=None, device=None, dtype=None, variant=None)
    assert list(inspect.signature(encode_text).parameters) == ['prompts','tokenizer','text_encoder']
    assert list(inspect.signature(decode).parameters) == ['latents','vae']
    assert list(inspect.signature(denoise).parameters)[:7] == ['latents','embeddings','unet','scheduler','uncond_embeddings','guidance_scale','num_inference_steps']


def test_a_string_is_a_list_of_one(sd):
    assert difference(sd(prompt, seed=1, num_inference_steps=2), sd([prompt], seed=[1], num_inference_steps=2)) <= 1


def test_one_negative_prompt_is_for_all(sd):
    run = dict(seed=1, num_inference_steps=3)
    assert difference(sd([prompt]*2, negative_prompt='a bag', **run), sd([prompt]*2, negative_prompt=['a bag']*2, **run)) <= 1
    assert difference(sd(prompt, negative_prompt=None, **run), sd(prompt, **run)) <= 1


def test_the_words_cut_off_are_named(sd):
    with pytest.warns(UserWarning, match="cut off: '.*purple hat'"): encode_text(prompt*20 + ' with a purple hat', sd.tokenizer, sd.text_encoder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encode_text([prompt,'','日本 🥾 ñ'], sd.tokenizer, sd.text_encoder)


def test_a_prompt_that_just_fits_is_not_cut(sd):
    words = sd.tokenizer.model_max_length - 2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encode_text('a '*words, sd.tokenizer, sd.text_encoder)
    with pytest.warns(UserWarning, match="cut off: 'a'"): encode_text('a '*(words+1), sd.tokenizer, sd.text_encoder)


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_becomes_embeddings(sd, text):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        embeddings = encode_text(text, sd.tokenizer, sd.text_encoder)
    assert embeddings.shape == (1, sd.tokenizer.model_max_length, sd.unet.config.cross_attention_dim) and embeddings.isfinite().all()


def test_words_that_the_model_has_never_seen_are_named(sd):
    with pytest.warns(UserWarning, match="never seen 'cat', 'mat'; it draws .*t-shirt, .*red"): sd.steps('a cat on a mat')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        sd.steps(['A photo of red boots, on a BLUE background.', 'a t-shirt', ''])


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


@pytest.mark.parametrize('part', weights)
@pytest.mark.parametrize('keep', [0, 5, 100, .5, -1])
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
    with pytest.raises(ValueError, match='do not fit each other'): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('text', ['', '{', '[]', '{"_class_name": "os"}', '{"_class_name": "DiffusionPipeline"}', '{"_class_name": "NoSuchScheduler"}', '{}'])
def test_a_broken_scheduler_is_named(folder, text):
    file = folder/'scheduler/scheduler_config.json'
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(file))): StableDiffusion.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('part', ['text_encoder','unet','vae'])
@pytest.mark.parametrize('text', ['', '{"_class_name":', '[]'])
def test_a_broken_config_is_named(folder, part, text):
    (folder/part/'config.json').write_text(text)
    with pytest.raises(ValueError, match=part): StableDiffusion.from_pretrained(folder, device='cpu')


def test_a_folder_says_what_it_recommends_and_knows(folder):
    run = dict(prompt=prompt, seed=0, num_inference_steps=4)
    plain = StableDiffusion.from_pretrained(folder, device='cpu')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert difference(plain(**run), plain(**run, guidance_scale=7.5)) <= 1
    (folder/'miniai.json').write_text('{"guidance_scale": 2, "words": ["boot"]}')
    own = StableDiffusion.from_pretrained(folder, device='cpu')
    with pytest.warns(UserWarning, match="never seen 'a', 'photo'"): drawn = own(**run)
    assert difference(drawn, plain(**run, guidance_scale=2)) <= 1 < difference(drawn, plain(**run))
    (folder/'miniai.json').write_text('{')
    with pytest.raises(ValueError, match='miniai.json'): StableDiffusion.from_pretrained(folder, device='cpu')


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


def test_a_variant_passes_through(folder):
    for part,file in weights.items():
        tensors = {k:v.half() for k,v in load_file(folder/part/file).items()}
        save_file(tensors, folder/part/file.replace('.safetensors','.fp16.safetensors'), {'format':'pt'})
        (folder/part/file).unlink()
    sd = StableDiffusion.from_pretrained(folder, device='cpu', variant='fp16')
    assert sd.unet.dtype == torch.float32
    with pytest.raises(FileNotFoundError, match='safetensors'): StableDiffusion.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="variant 'bf16'"): StableDiffusion.from_pretrained(folder, variant='bf16')


def test_a_hub_id_is_fetched_once_and_loaded_as_a_folder(folder, monkeypatch):
    import huggingface_hub
    asked = []
    def fetch(repo, *, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(folder)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
    assert StableDiffusion.from_pretrained(hub_model, device='cpu').unet.config.cross_attention_dim == 32
    (repo,patterns), = asked
    assert repo == hub_model
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

def command(*args, cwd, **env):
    "Run `python -m miniai`"
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.run([sys.executable, '-m', 'miniai', *map(str,args)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH':root, **env})


def test_the_command_draws_a_picture(sd, tmp_path):
    done = command(prompt, '--seed', 42, '--num-inference-steps', 3, '--guidance-scale', 4, '--negative-prompt', 'a bag', '--out', 'boot.png', cwd=tmp_path)
    assert done.returncode==0 and done.stderr=='', done.stderr
    assert done.stdout.split(' (seed')[0] == str(tmp_path/'boot.png')
    expected = sd(prompt, seed=42, num_inference_steps=3, guidance_scale=4, negative_prompt='a bag')
    assert difference([Image.open(tmp_path/'boot.png')], expected) <= 1
    assert [p.name for p in tmp_path.iterdir()] == ['boot.png']


@pytest.mark.parametrize('args,size', [(['a bag','a coat'], (2*64+2,64)), (['a bag','a coat','--strip'], (8*66-2,2*66-2)), (['a bag','--strip'], (8*66-2,64))])
def test_several_prompts_and_strips(args, size, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompts,strip = [a for a in args if a!='--strip'], '--strip' in args
    main(*prompts, strip=strip, seed=1, num_inference_steps=9)
    assert Image.open('miniai.png').size == size
    assert 'seed 1' in capsys.readouterr().out


def test_the_seed_that_was_drawn_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main('a bag', num_inference_steps=2)
    seed = int(re.search(r'seed (\d+)', capsys.readouterr().out)[1])
    first = Image.open('miniai.png').copy()
    main('a bag', num_inference_steps=2, seed=seed)
    assert difference([first], [Image.open('miniai.png')]) <= 1


def test_the_command_computes_on_one_thread_and_the_library_leaves_them_alone(sd, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, 'set_num_threads', asked.append)
    monkeypatch.chdir(tmp_path)
    for name in 'OMP_NUM_THREADS','MINIAI_MODEL': monkeypatch.delenv(name, raising=False)
    sd('a bag', num_inference_steps=1)
    assert asked == []
    main('a bag', num_inference_steps=1)
    assert asked == [1]
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    main('a bag', num_inference_steps=1)
    assert asked == [1]


@pytest.mark.parametrize('args,words', [
    ([], 'say what to draw'),
    (['a bag', '--num-inference-steps', 0], 'at least 1'),
    (['a bag', '--out', 'nowhere/a.png'], 'nowhere'),
    (['a bag', '--steps', 3], 'unrecognized arguments')])
def test_the_command_says_what_is_wrong_in_a_sentence(args, words, tmp_path):
    done = command(*args, cwd=tmp_path)
    assert done.returncode==2 and words in done.stderr and 'Traceback' not in done.stderr
    if 'usage' not in done.stderr: assert done.stderr.startswith('miniai: ') and len(done.stderr.splitlines())==1
    assert not list(tmp_path.iterdir())


def test_the_command_warns_of_words_unknown_or_cut_off(tmp_path):
    done = command(f'{prompt} '*20 + 'cat', '--seed', 0, '--num-inference-steps', 1, cwd=tmp_path)
    assert done.returncode==0 and re.fullmatch("miniai: this small model .*never seen 'cat'; .*\nminiai: the prompt is longer.*cat'\n", done.stderr), done.stderr


def test_help_names_every_option(tmp_path):
    done = command('--help', cwd=tmp_path)
    for option in '--seed','--num-inference-steps','--guidance-scale','--negative-prompt','--strip','--model','--out': assert option in done.stdout
    assert done.returncode==0


def in_terminal(*args, cwd, **env):
    "What `python -m miniai` writes to a terminal"
    main_end,other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack('4H', 40, 100, 0, 0))
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen([sys.executable, '-m', 'miniai', *args], cwd=cwd, stdin=other_end, stdout=other_end, stderr=other_end,
        env={**os.environ, 'PYTHONPATH':root, **env})
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
    args = 'a bag', '--seed', '1', '--num-inference-steps', '20'
    colour = in_terminal(*args, cwd=tmp_path, COLORTERM='truecolor')
    assert '/20' in colour and colour.count('▀')==64*32
    plain = in_terminal(*args, cwd=tmp_path, COLORTERM='')
    assert '/20' in plain and '▀' not in plain
