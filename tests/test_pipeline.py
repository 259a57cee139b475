"What `miniai.pipeline` promises beyond its notebook: the library's pictures, every image its own, and plain words about bad input"
import copy, dataclasses, functools, inspect, shutil, warnings

import diffusers, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from miniai.core import *
from miniai.pipeline import *

prompt = 'a purple castle on a grey background'
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


@pytest.fixture(scope='module')
def sd(tiny): return tiny # What is tested here holds for any network


# The library's picture

@pytest.fixture(scope='module')
def ours(folders): return {name: StableDiffusion.from_pretrained(folder, device='cpu') for name,folder in folders.items()}


@pytest.fixture
def pairs(ours, libraries):
    "Our pipeline and the library's for each folder, loaded from it separately"
    return {name: (copy.copy(ours[name]), copy.copy(libraries[name])) for name in ours}


def both(pair, scheduler, prompts, negatives, n, **kwargs):
    "The same pictures from us and from the library"
    ours,library = pair
    ours.scheduler = scheduler
    library.scheduler = copy.deepcopy(scheduler)
    noise = torch.randn(ours.latent_shape(len(prompts)), generator=torch.Generator().manual_seed(n))
    new = lambda: dict(num_inference_steps=n, latents=noise.clone(), generator=torch.Generator().manual_seed(1), **{'guidance_scale':4, **kwargs})
    return ours(prompts, negative_prompt=negatives, **new()), library(prompts, negative_prompt=negatives, **new()).images


pairwise = [(['embedded','sd15','sd21'][(i+j)%3], name, n, [1,7.5][(i+j)%2]) for i,name in enumerate(schedulers) for j,n in enumerate([1,7,12])]

@pytest.mark.parametrize('folder,name,n,guidance_scale', pairwise) # Any two of these choices meet in one of the runs
def test_the_librarys_picture(pairs, folder, name, n, guidance_scale):
    scheduler = scheduler_like(pairs[folder][0].scheduler, name)
    ours,library = both(pairs[folder], scheduler, [prompt], ['a cat'], n, guidance_scale=guidance_scale)
    assert difference(ours, library) <= 1


@pytest.mark.parametrize('folder', ['sd15','sd21','masked','distilled'])
@pytest.mark.parametrize('change', [dict(guidance_scale=3), dict(num_inference_steps=6), dict(negative_prompt='a dog'), dict(seed=1)])
def test_another_picture_would_be_noticed(pairs, folder, change):
    if folder=='distilled' and 'negative_prompt' in change: pytest.skip('such a network is not asked for the negative prompt')
    ours = pairs[folder][0]
    run = dict(prompt=prompt, seed=0, num_inference_steps=7)
    assert difference(ours(**run), ours(**{**run, **change})) > 1


@pytest.mark.parametrize('guidance_scale', [-1, 0, .5, 1.01])
def test_the_librarys_picture_around_no_guidance(pairs, guidance_scale):
    assert difference(*both(pairs['sd15'], pairs['sd15'][0].scheduler, [prompt], ['a cat'], 5, guidance_scale=guidance_scale)) <= 1


@pytest.mark.filterwarnings('ignore:this U-Net has guidance built in')
@pytest.mark.parametrize('name', schedulers)
@pytest.mark.parametrize('folder', ['sd15','masked','distilled'])
def test_the_librarys_pictures_of_a_batch(pairs, folder, name):
    scheduler = scheduler_like(pairs[folder][0].scheduler, name)
    ours,library = both(pairs[folder], scheduler, [prompt,'a cat'], ['a dog',''], 7, guidance_scale=4)
    assert difference(ours, library) <= 1


@pytest.mark.parametrize('config', [dict(use_karras_sigmas=True), dict(timestep_spacing='trailing'), dict(timestep_spacing='linspace')])
@pytest.mark.parametrize('name', ['EulerDiscrete','DPMSolverMultistep','LMSDiscrete'])
def test_the_librarys_picture_with_other_noise_levels(pairs, name, config):
    scheduler = scheduler_like(pairs['sd15'][0].scheduler, name, **config)
    assert difference(*both(pairs['sd15'], scheduler, [prompt], [''], 7)) <= 1


@pytest.mark.parametrize('n', [7,12])
def test_the_librarys_picture_with_the_first_steps_of_pndm(pairs, n):
    scheduler = scheduler_like(pairs['sd15'][0].scheduler, 'PNDM', skip_prk_steps=False)
    assert difference(*both(pairs['sd15'], scheduler, [prompt], [''], n)) <= 1
    assert len(scheduler.timesteps) > n+1


@pytest.mark.parametrize('height,width', [(64,96), (72,64), (8,128)])
def test_the_librarys_picture_in_other_sizes(pairs, height, width):
    ours,library = pairs['embedded']
    library.scheduler = ours.scheduler = diffusers.DDIMScheduler.from_config(ours.scheduler.config)
    size = dict(height=height, width=width, num_inference_steps=5, guidance_scale=4)
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


def test_a_negative_prompt_that_will_be_ignored_is_said(pairs):
    with pytest.warns(UserWarning, match='negative'): pairs['distilled'][0].conditions(prompt, 'a dog')


# Every image its own

@given(st.lists(st.integers(0, 2**63-1), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_noise_depends_on_its_own_seed_alone(seeds):
    noise = draw_noise((len(seeds),4,8,8), generators(seeds, n=len(seeds)))
    for x,s in zip(noise, seeds): assert torch.equal(x[None], draw_noise((1,4,8,8), generators(s)))


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
    args = dict(latents=draw_noise((1,4,8,8), generators(0)), embeddings=embeddings[:1], unet=sd.unet, scheduler=sd.scheduler,
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
    other = encode_text('a dog', sd.tokenizer, sd.text_encoder)
    def last(change):
        for step in run(sd, scheduler=scheduler, generator=torch.Generator().manual_seed(0)):
            if step.index==1: change(step)
        return step.latents
    plain = last(lambda step: None)
    assert close(plain, last(lambda step: setattr(step, 'latents', step.latents.clone())))
    for name,value in dict(latents=torch.ones(1,4,8,8), guidance_scale=3., embeddings=other, uncond_embeddings=other).items():
        assert not close(plain, last(lambda step: setattr(step, name, value)), 1e-3)


def test_what_a_step_is_given_is_what_the_network_gets(sd):
    asked = []
    hook = sd.unet.register_forward_pre_hook(lambda module,args,kwargs: asked.append((args[0].clone(), kwargs['encoder_hidden_states'].clone())), with_kwargs=True)
    other = encode_text(['a dog','a cat'], sd.tokenizer, sd.text_encoder)
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
    x = draw_noise((1,4,8,8), generators(0))
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
    begin = draw_noise((1,4,8,8), generators(0))*scheduler.init_noise_sigma if start==0 else whole[start-1].latents
    rest = list(run(sd, scheduler=scheduler, latents=begin, start=start))
    assert [step.index for step in rest] == list(range(5-start)) and torch.equal(rest[0].timesteps, scheduler.timesteps[start:])
    assert close(rest[-1].latents, whole[-1].latents)


# Callbacks

def calling(sd, *callbacks): return StableDiffusion(**vars(sd), callbacks=list(callbacks))


def test_callbacks_see_each_step_in_order_before_the_consumer(sd):
    seen = []
    a,b = (lambda step,name=name: seen.append((name,step.index)) for name in 'ab')
    for step in calling(sd, a, b).steps(prompt, seed=0, num_inference_steps=3): seen.append(('loop',step.index))
    assert seen == [(name,i) for i in range(3) for name in ('a','b','loop')]


def test_callbacks_that_only_watch_change_nothing(sd):
    assert difference(calling(sd, lambda step: True)(prompt, seed=0, num_inference_steps=4), sd(prompt, seed=0, num_inference_steps=4)) <= 1


def test_a_callback_sees_what_the_one_before_it_did(sd):
    def double(step): step.guidance_scale *= 2
    steps = list(calling(sd, double, double).steps(prompt, seed=0, num_inference_steps=3, guidance_scale=1.))
    assert [step.guidance_scale for step in steps] == [4.,16.,64.]


def test_guidance_can_begin_late(sd):
    "A run that begins without guidance still knows the negative prompt"
    def late(step): step.guidance_scale = 7.5
    args = dict(seed=0, num_inference_steps=4, guidance_scale=1)
    plain,guided = sd(prompt, **args),calling(sd, late)(prompt, **args)
    assert difference(plain, guided) > 1
    assert difference(guided, calling(sd, late)(prompt, negative_prompt='a red cat', **args)) > 1


def test_a_callback_can_end_the_run(sd):
    def stop(step): step.stop = step.index==1
    own = calling(sd, stop)
    assert len(list(own.steps(prompt, num_inference_steps=6))) == 2
    second = [step.latents for step in sd.steps(prompt, seed=0, num_inference_steps=6)][1]
    assert difference(own(prompt, seed=0, num_inference_steps=6), decode(second, sd.vae)) <= 1


def test_the_run_ends_when_a_callback_fails(sd):
    seen = []
    steps = calling(sd, lambda step: seen.append(step.index), lambda step: 1/(2-step.index)).steps(prompt, seed=0, num_inference_steps=5)
    inner = steps.gi_frame.f_locals['steps']
    with pytest.raises(ZeroDivisionError): list(steps)
    assert seen==[0,1,2] and inner.gi_frame is None and next(steps, None) is None and torch.is_grad_enabled()
    assert len(list(sd.steps(prompt, num_inference_steps=2))) == 2


def test_what_a_callback_assigns_has_to_fit_the_network(sd):
    def wrong(step): step.latents = step.latents[:,:1]
    with pytest.raises(RuntimeError, match='channels'): calling(sd, wrong)(prompt, num_inference_steps=2)


def test_leaving_the_loop_ends_the_run_behind_the_callbacks(sd):
    steps = calling(sd, lambda step: None).steps(prompt, num_inference_steps=5)
    next(steps)
    inner = steps.gi_frame.f_locals['steps']
    steps.close()
    assert inner.gi_frame is None


def test_ctrl_c_in_a_callback_stays_ctrl_c(sd):
    def stop(step): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): calling(sd, stop)(prompt, num_inference_steps=2)


def test_callbacks_can_be_given_later(sd):
    own,seen = StableDiffusion(**vars(sd)),[]
    own.callbacks = [seen.append]
    own(prompt, num_inference_steps=2)
    assert len(seen)==2 and not sd.callbacks and not StableDiffusion.callbacks


# The call

def test_signatures(sd):
    parameters = lambda f: {k:p.default for k,p in inspect.signature(f).parameters.items()}
    empty = inspect.Parameter.empty
    assert parameters(sd.__call__) == dict(prompt=empty, negative_prompt='', num_inference_steps=None, guidance_scale=None, height=None, width=None,
        generator=None, seed=None, latents=None, start=None, progress=True)
    assert parameters(StableDiffusion.from_pretrained) == dict(path=None, device=None, dtype=None, variant=None)
    assert list(inspect.signature(encode_text).parameters) == ['prompts','tokenizer','text_encoder','clip_skip']
    assert list(inspect.signature(decode).parameters) == ['latents','vae']
    assert list(inspect.signature(denoise).parameters)[:7] == ['latents','embeddings','unet','scheduler','uncond_embeddings','guidance_scale','num_inference_steps']


def test_a_string_is_a_list_of_one(sd):
    assert difference(sd(prompt, seed=1, num_inference_steps=2), sd([prompt], seed=[1], num_inference_steps=2)) <= 1


def test_one_negative_prompt_is_for_all(sd):
    run = dict(seed=1, num_inference_steps=3)
    assert difference(sd([prompt]*2, negative_prompt='a cat', **run), sd([prompt]*2, negative_prompt=['a cat']*2, **run)) <= 1
    assert difference(sd(prompt, negative_prompt=None, **run), sd(prompt, **run)) <= 1


def test_the_words_cut_off_are_named(sd):
    with pytest.warns(UserWarning, match="cut off: '.*purple hat'"): encode_text(prompt*20 + ' with a purple hat', sd.tokenizer, sd.text_encoder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encode_text([prompt,'','日本 🏰 ñ'], sd.tokenizer, sd.text_encoder)


def test_a_prompt_that_just_fits_is_not_cut(sd):
    words = sd.tokenizer.model_max_length - 2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encode_text('a '*words, sd.tokenizer, sd.text_encoder)
    with pytest.warns(UserWarning, match="cut off: 'a'"): encode_text('a '*(words+1), sd.tokenizer, sd.text_encoder)


@given(st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_text_becomes_embeddings(sd, text):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        embeddings = encode_text(text, sd.tokenizer, sd.text_encoder)
    assert embeddings.shape == (1, sd.tokenizer.model_max_length, sd.unet.config.cross_attention_dim) and embeddings.isfinite().all()


def test_words_that_the_model_has_never_seen_are_named(pairs):
    sd = pairs['embedded'][0]
    with pytest.warns(UserWarning, match="never seen 'spoon', 'mat'; it knows words such as .*pizza"): sd.steps('a spoon on a mat')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        sd.steps(['A drawing of red castles, on a BLUE background.', 'a t-shirt', ''])


# Folders

@pytest.fixture
def folder(folders, tmp_path): return shutil.copytree(folders['sd15'], tmp_path/'model')


def test_the_environment_names_the_model(folder, monkeypatch):
    monkeypatch.setenv('MINIAI_MODEL', str(folder))
    assert StableDiffusion.from_pretrained(device='cpu').unet.config.cross_attention_dim == 32


def test_a_folder_says_what_it_recommends_and_knows(folder):
    run = dict(prompt=prompt, seed=0, num_inference_steps=4)
    plain = StableDiffusion.from_pretrained(folder, device='cpu')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert difference(plain(**run), plain(**run, guidance_scale=7.5)) <= 1
    (folder/'miniai.json').write_text('{"guidance_scale": 2, "words": ["castle"]}')
    own = StableDiffusion.from_pretrained(folder, device='cpu')
    with pytest.warns(UserWarning, match="never seen 'a', 'purple'"): drawn = own(**run)
    assert difference(drawn, plain(**run, guidance_scale=2)) <= 1 < difference(drawn, plain(**run))
