"What `miniai.customise` promises beyond its notebook: the library's pictures from pictures, masks and pictures of every kind, films, and an explorer that listens"
import base64, io, math, threading

import diffusers, numpy as np, pytest, torch
from diffusers import DDIMInverseScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from hypothesis import given, settings, strategies as st
from PIL import Image

from miniai.clip import real_pictures
from miniai.core import *
from miniai.customise import *
from miniai.customise import _latent_mask, _start
from miniai.pipeline import *
from miniai.vae import *

prompt = 'a photo of a red ankle boot on a yellow background'
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')
names = ['DDIM','PNDM','LMSDiscrete','EulerDiscrete','EulerAncestralDiscrete','DPMSolverMultistep']


@pytest.fixture(scope='module')
def photos(): return real_pictures()[0]

@pytest.fixture(scope='module')
def photo(photos): return photos[82]


def difference(a, b):
    "The largest difference of two lists of pictures, in 1/255"
    return max(np.abs(np.asarray(x).astype(int) - np.asarray(y)).max() for x,y in zip(a, b, strict=True))

def seeded(*seeds): return [torch.Generator().manual_seed(s) for s in seeds]

def library_with(cls, sd):
    "One of the library's pipelines on the parts of ours"
    pipe = cls(**vars(sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe

def scheduled(sd, name, **config):
    "The pipeline with one of the library's schedulers"
    return with_parts(sd, scheduler=getattr(diffusers, f'{name}Scheduler').from_config({**sd.scheduler.config, 'skip_prk_steps':True, **config}))


# Image to image

@pytest.mark.parametrize('strength,n', [(.02,50), (.3,10), (.58,50), (.8,7), (1,5)])
@pytest.mark.parametrize('name', names)
def test_the_librarys_picture_from_a_picture(sd, photo, name, strength, n):
    own = scheduled(sd, name)
    args = dict(strength=strength, num_inference_steps=n, guidance_scale=4, negative_prompt='a bag')
    ours = image_to_image(own, prompt, photo, generator=seeded(3)[0], **args)
    assert difference(ours, library_with(StableDiffusionImg2ImgPipeline, own)(prompt, photo, generator=seeded(3)[0], **args).images) <= 1


@pytest.mark.parametrize('name,config', [('HeunDiscrete', {}), ('EulerDiscrete', dict(use_karras_sigmas=True)), ('DPMSolverMultistep', dict(timestep_spacing='trailing')), ('DDPM', {})])
def test_the_librarys_picture_with_other_noise_levels(sd, photo, name, config):
    own = scheduled(sd, name, **config)
    args = dict(strength=.6, num_inference_steps=7, guidance_scale=4)
    assert difference(image_to_image(own, prompt, photo, generator=seeded(3), **args),
        library_with(StableDiffusionImg2ImgPipeline, own)(prompt, photo, generator=seeded(3), **args).images) <= 1


@pytest.mark.parametrize('change', [dict(strength=.5), dict(seed=2), dict(guidance_scale=2), dict(prompt='a photo of a bag'), dict(negative_prompt='a photo of a red boot')])
def test_another_picture_would_be_noticed(sd, photo, photos, change):
    args = dict(prompt=prompt, image=photo, strength=.8, num_inference_steps=8, seed=1)
    assert difference(image_to_image(sd, **args), image_to_image(sd, **{**args, **change})) > 1
    assert difference(image_to_image(sd, **args), image_to_image(sd, **{**args, 'image':photos[0]})) > 1


@pytest.mark.parametrize('name', names)
def test_a_batch_is_the_librarys_and_each_of_its_pictures_comes_alone(sd, photos, name):
    own = scheduled(sd, name)
    some,prompts = photos[:3],['a photo of a coat','a photo of a bag',prompt]
    args = dict(strength=.7, num_inference_steps=6, guidance_scale=3)
    batch = image_to_image(own, prompts, some, seed=5, **args)
    assert difference(batch, library_with(StableDiffusionImg2ImgPipeline, own)(prompts, some, generator=seeded(5,6,7), **args).images) <= 1
    assert difference(batch[1:2], image_to_image(own, prompts[1], some[1], seed=6, **args)) <= 1


def test_one_prompt_for_several_pictures_and_one_picture_for_several_prompts(sd, photos):
    args = dict(seed=5, num_inference_steps=3)
    assert difference(image_to_image(sd, prompt, photos[:2], **args), image_to_image(sd, [prompt]*2, photos[:2], **args)) <= 1
    assert difference(image_to_image(sd, [prompt,'a bag'], photos[0], **args), image_to_image(sd, [prompt,'a bag'], [photos[0]]*2, **args)) <= 1
    with pytest.raises(ValueError, match='2 prompts and 3 pictures'): image_to_image(sd, [prompt]*2, photos[:3], **args)


def test_a_larger_picture_keeps_its_size_or_is_stretched(sd, photo):
    wide = photo.resize((96,72))
    args = dict(seed=0, num_inference_steps=4)
    ours = image_to_image(sd, prompt, wide, generator=seeded(0)[0], num_inference_steps=4, guidance_scale=4)
    theirs = library_with(StableDiffusionImg2ImgPipeline, sd)(prompt, wide, generator=seeded(0)[0], num_inference_steps=4, guidance_scale=4, strength=.8).images
    assert ours[0].size==(96,72) and difference(ours, theirs) <= 1
    assert image_to_image(sd, prompt, Image.new('RGB', (70,33)), height=64, width=64, **args)[0].size == (64,64)


@pytest.mark.parametrize('mode', ['RGB','RGBA','L','LA','P','1','I;16','CMYK','YCbCr','HSV'])
def test_pictures_of_any_mode(sd, photo, mode):
    if mode=='I;16': image = Image.fromarray((np.asarray(photo.convert('L')).astype(np.uint16)*257))
    else: image = photo.convert(mode)
    mask = Image.new('L', (64,64), 'white')
    mask.paste(0, (0,0,64,32))
    drawn = image_to_image(sd, prompt, image, num_inference_steps=2, seed=0), inpaint(sd, prompt, image, mask, num_inference_steps=2, seed=0)
    assert all(im.mode=='RGB' and im.size==(64,64) for ims in drawn for im in ims)
    assert invert(sd, image, num_inference_steps=2).shape == (1,4,8,8)


@given(st.floats(.001, 1), st.integers(1, 1000))
@settings(deadline=None, derandomize=True)
def test_the_steps_that_are_left_are_the_librarys(strength, n):
    class Pipe:
        class scheduler: timesteps,order = torch.arange(n),1
    left = len(StableDiffusionImg2ImgPipeline.get_timesteps(Pipe, n, strength, None)[0])
    if left: assert n - _start(Pipe.scheduler, strength, n) == left
    else:
        with pytest.raises(ValueError, match='none of'): _start(Pipe.scheduler, strength, n)


# Painting into a picture

def half(size=(64,64), left=0):
    mask = Image.new('L', size)
    mask.paste(255, (left or size[0]//2, 0, *size))
    return mask

@pytest.mark.parametrize('strength', [1,.6])
@pytest.mark.parametrize('name', [n for n in names if n!='EulerAncestralDiscrete']) # there the library draws noise for an encoding that it does not use
def test_the_librarys_painting(sd, photo, name, strength):
    own = scheduled(sd, name)
    args = dict(strength=strength, num_inference_steps=6, guidance_scale=4)
    ours = inpaint(own, prompt, photo, half(), paste=False, generator=seeded(3)[0], **args)
    theirs = library_with(StableDiffusionInpaintPipeline, own)(prompt, photo, half(), height=64, width=64, generator=seeded(3)[0], **args).images
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize('strength', [1,.5])
def test_what_is_outside_the_mask_is_kept_to_the_last_bit(sd, photos, strength):
    image,mask = photos[5],half(left=37)
    drawn = inpaint(sd, [prompt,'a bag'], image, mask, strength=strength, num_inference_steps=5, seed=0)
    outside = np.asarray(mask)==0
    for im in drawn: assert (np.asarray(im)[outside]==np.asarray(image)[outside]).all()
    assert difference(drawn[:1], [image]) > 20
    plain = inpaint(sd, prompt, image, mask, paste=False, num_inference_steps=5, seed=0)[0]
    assert (np.asarray(plain)[outside]!=np.asarray(image)[outside]).any()


def test_the_latents_outside_the_mask_are_the_pictures_own(sd, photo):
    record = Record()
    inpaint(with_parts(sd, callbacks=[record]), prompt, photo, half(), num_inference_steps=4, generator=seeded(0)[0])
    known = encode_image(photo, sd.vae, seeded(0)[0])
    blend = Blend(sd.scheduler, known, torch.randn(known.shape), _latent_mask(half(), 8))
    step = record[-1]
    blend(step)
    assert torch.equal(step.latents[...,:4], known[...,:4]) and not torch.allclose(step.latents[...,4:], known[...,4:])


def test_a_run_that_stops_early_keeps_the_picture_outside(sd, photo):
    drawn = inpaint(with_parts(sd, callbacks=[EarlyStop(.1)]), prompt, photo, half(), paste=False, num_inference_steps=20, seed=0)[0]
    through = decode(encode_image(photo, sd.vae), sd.vae)[0]
    assert np.abs(np.asarray(drawn)[:,:24].astype(int) - np.asarray(through)[:,:24]).mean() < 4


@pytest.mark.parametrize('mask', [half(), half().convert('1'), half().convert('RGB'), half().convert('P'), half().convert('RGBA'), half().convert('LA'),
    Image.fromarray(np.asarray(half()).astype(np.uint16)*257), Image.fromarray(np.asarray(half()).astype(np.int32)*257), np.asarray(half()), np.asarray(half())>0, np.asarray(half())/255,
    torch.tensor(np.asarray(half())), torch.tensor(np.asarray(half()))>0, torch.tensor(np.asarray(half())/255)[None], torch.tensor(np.asarray(half())>0).long(),
    half().point(lambda v: 100 if v==0 else 150)], ids=lambda m: getattr(m, 'mode', None) or str(m.dtype))
def test_masks_of_every_kind(mask):
    mask = to_mask(mask, (64,64))
    assert mask.mode=='L' and (np.asarray(mask)==np.asarray(half())).all()


@given(st.integers(0,63), st.integers(0,63), st.integers(1,64), st.integers(1,64))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_every_white_pixel_lies_in_a_place_that_is_painted(x, y, w, h):
    mask = Image.new('L', (64,64))
    mask.paste(255, (x, y, min(x+w,64), min(y+h,64)))
    places = _latent_mask(mask, 8)
    large = places.repeat_interleave(8, 2).repeat_interleave(8, 3)[0,0].numpy()
    assert large[np.asarray(mask)>0].all() and places.sum() <= (w/8+2)*(h/8+2)


# Callbacks

def test_the_parts_are_shared_and_the_pipeline_is_left_alone(sd):
    class Own(StableDiffusion): pass
    other = with_parts(Own(**vars(sd)), scheduler=3, callbacks=[print])
    assert type(other) is Own and other.unet is sd.unet and other.scheduler==3 and other.callbacks==[print] and sd.callbacks==() and sd.scheduler!=3
    with pytest.raises(TypeError, match='u_net'): with_parts(sd, u_net=3)


def test_a_record_keeps_steps_as_they_were_when_it_saw_them(sd):
    before,after = Record(),Record()
    with_parts(sd, callbacks=[before, GuidanceSchedule(lambda done: 10*done), after])(prompt, num_inference_steps=4, guidance_scale=2)
    assert [s.guidance_scale for s in before]==[2,2.5,5,7.5] and [s.guidance_scale for s in after]==[2.5,5,7.5,10]


def test_a_schedule_that_stays_the_same_changes_nothing(sd):
    args = dict(seed=0, num_inference_steps=5, guidance_scale=3)
    assert difference(with_parts(sd, callbacks=[GuidanceSchedule(lambda done: 3)])(prompt, **args), sd(prompt, **args)) <= 1


@pytest.mark.parametrize('name', ['DDIM','Euler','LMS','DDPM','Euler ancestral','PNDM','DPM++ 2M'])
def test_runs_stop_early_near_their_end(sd, name):
    own,record = with_parts(sd, scheduler=schedulers[name].from_config(sd.scheduler.config)),Record()
    args = dict(seed=0, num_inference_steps=30, guidance_scale=3)
    early = with_parts(own, callbacks=[EarlyStop(.05), record])(prompt, **args)
    assert 5 < len(record) <= 30 and image_psnr(early[0], own(prompt, **args)[0]) > 20
    with_parts(own, callbacks=[EarlyStop(0), record])(prompt, **args)
    assert len(record) == len(own.scheduler.timesteps)


def test_early_stop_waits_for_the_whole_batch_and_starts_afresh(sd):
    stop,record,lengths = EarlyStop(.03),Record(),[]
    for p,seed in (prompt,0),('a photo of a bag',1),([prompt,'a photo of a bag'],0),(prompt,0):
        with_parts(sd, callbacks=[stop,record])(p, seed=seed, num_inference_steps=40, guidance_scale=3)
        lengths.append(len(record))
    assert lengths[2]==max(lengths[:2]) and lengths[3]==lengths[0]


def test_early_stop_needs_a_scheduler_that_tells(sd):
    with pytest.raises(RuntimeError, match='EarlyStop.*does not say'): with_parts(scheduled(sd, 'PNDM'), callbacks=[EarlyStop()])(prompt, num_inference_steps=3)


@pytest.mark.parametrize('every,n,count', [(1,5,5), (5,11,3), (5,12,4), (100,3,2)])
def test_previews_come_as_often_as_asked_and_at_the_end(sd, every, n, count):
    seen = []
    images = with_parts(sd, callbacks=[Preview(sd.vae, every, seen.append)])([prompt]*2, num_inference_steps=n, seed=0)
    assert len(seen)==count and seen[0].size==(2*64+2,64)
    assert difference([seen[-1].crop((0,0,64,64))], images[:1]) < 40


def test_outside_a_notebook_a_preview_shows_nothing(sd, capsys):
    with_parts(sd, callbacks=[Preview(sd.vae)])(prompt, num_inference_steps=2)
    assert capsys.readouterr() == ('','')


# Ways

@pytest.mark.parametrize('name', [n for n in names if n!='EulerAncestralDiscrete']) # which draws more noise on the way
def test_the_stations_of_a_way_are_the_pipelines_pictures(sd, name):
    own = scheduled(sd, name)
    texts,seeds,args = [prompt,'a photo of a bag','a photo of a green coat'],[3,1,2],dict(num_inference_steps=5, guidance_scale=3)
    way = interpolate(own, texts, seeds, 5, negative_prompt='a hat', batch_size=2, **args)
    assert len(way)==5
    for i,(text,seed) in enumerate(zip(texts, seeds)):
        assert difference(way[2*i:2*i+1], own(text, seed=seed, negative_prompt='a hat', **args)) <= 1


def test_a_way_does_not_depend_on_its_batches(sd):
    args = dict(num_inference_steps=4)
    one,many = (interpolate(sd, [prompt,'a bag'], 0, 5, batch_size=b, **args) for b in (1,5))
    assert difference(one, many) <= 1


@pytest.mark.parametrize('suffix', ['.gif','.webp','.png','.GIF'])
def test_a_film_has_all_its_pictures_and_no_end(photos, tmp_path, suffix):
    file = save_animation(photos[:6], tmp_path/f'film{suffix}', fps=10)
    with Image.open(file) as film:
        assert film.n_frames==6 and film.info.get('loop', 0)==0
        for i,photo in enumerate(photos[:6]):
            film.seek(i)
            film.load()
            assert film.info['duration']==100
            assert np.abs(np.asarray(film.convert('RGB')).astype(int)-np.asarray(photo)).mean() < (3 if 'gif' in suffix.lower() else 1e-9)
    assert [p.name for p in tmp_path.iterdir()] == [f'film{suffix}']


def test_a_film_is_written_whole_or_not_at_all(photos, tmp_path, monkeypatch):
    save_animation(photos[:2], tmp_path/'film.gif')
    before = (tmp_path/'film.gif').read_bytes()
    def full(self, fp, **kwargs):
        open(fp, 'wb').write(b'half')
        raise OSError('no space left')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='no space'): save_animation(photos[:3], tmp_path/'film.gif')
    assert (tmp_path/'film.gif').read_bytes()==before and len(list(tmp_path.iterdir()))==1


# Back to the noise

@pytest.mark.parametrize('prediction_type', ['epsilon','v_prediction','sample'])
@pytest.mark.parametrize('n', [1,7,50])
def test_the_librarys_inverse_steps(sd, n, prediction_type):
    config = {**sd.scheduler.config, 'prediction_type':prediction_type}
    ours,theirs = DDIMInverse(config),DDIMInverseScheduler.from_config(config)
    theirs.initial_alpha_cumprod = theirs.alphas_cumprod[0]
    x = y = torch.randn(2,4,8,8, generator=seeded(0)[0])
    for s in ours,theirs: s.set_timesteps(n)
    assert ours.timesteps.tolist()==theirs.timesteps.tolist()
    for i,t in enumerate(ours.timesteps):
        out = torch.randn(x.shape, generator=seeded(i)[0])
        x,y = ours.step(out, t, x).prev_sample,theirs.step(out, t, y).prev_sample
        assert torch.allclose(x, y, rtol=1e-4, atol=1e-4*y.abs().max().item())


def test_there_and_back_again(sd, photos):
    "If the network said the same on both ways, the way back would end where the way there began"
    inverse,ddim = DDIMInverse(sd.scheduler.config),schedulers['DDIM'].from_config(sd.scheduler.config)
    x = start = torch.randn(1,4,8,8, generator=seeded(0)[0])
    said = torch.randn(9,1,4,8,8, generator=seeded(1)[0])
    for s in inverse,ddim: s.set_timesteps(9)
    for i,t in enumerate(inverse.timesteps): x = inverse.step(said[i], t, x).prev_sample
    for i,t in enumerate(ddim.timesteps): x = ddim.step(said[8-i], t, x).prev_sample
    assert torch.allclose(x, start, atol=1e-4*start.abs().max().item())


def test_a_photo_comes_back_from_its_noise(sd, photos):
    some = photos[20:24]
    noise = invert(sd, some, num_inference_steps=50)
    ddim = with_parts(sd, scheduler=schedulers['DDIM'].from_config(sd.scheduler.config))
    again = ddim(['']*4, latents=noise, guidance_scale=1)
    limit = [image_psnr(decode(encode_image(im, sd.vae), sd.vae)[0], im) for im in some]
    assert np.mean([image_psnr(a, b) for a,b in zip(again, some)]) > np.mean(limit)-2
    assert noise.shape==(4,4,8,8) and .5<noise.std()<1.2 and not noise.is_inference()


def test_inversion_in_a_batch_and_alone(sd, photos):
    some,texts = photos[:2],['a photo of a coat','a photo of a bag']
    both = invert(sd, some, texts, num_inference_steps=5)
    assert (both[1:]-invert(sd, some[1], texts[1], num_inference_steps=5)).abs().max() <= 1e-3*both.abs().max()
    with pytest.raises(ValueError, match='3 prompts and 2 pictures'): invert(sd, some, ['a']*3)
    with pytest.raises(ValueError, match='at least 1'): invert(sd, some, num_inference_steps=0)


def test_a_film_of_less_quality_is_smaller(photos, tmp_path):
    sizes = [save_animation(photos[:6], tmp_path/'film.webp', quality=q).stat().st_size for q in (10,90,None)]
    assert sizes==sorted(sizes) and sizes[0]<sizes[1]/2


# The explorer

@pytest.fixture
def explorer(sd):
    explorer = explore(sd, num_inference_steps=4)
    assert explorer.wait(600)
    yield explorer
    explorer.stop.set()
    explorer.wait(600)

def png(explorer): return Image.open(io.BytesIO(explorer.picture.value))

def test_it_draws_what_the_pipeline_draws(sd, explorer):
    plain = with_parts(sd, scheduler=schedulers['DDIM'].from_config(sd.scheduler.config))
    args = {k:v.value for k,v in explorer.controls.items() if k!='scheduler'}
    assert explorer.status.value=='done' and difference([explorer.image], plain(**args)) <= 1
    assert png(explorer).size==(256,256)


@pytest.mark.parametrize('name,value', [('prompt','a photo of a white dress on a black background'), ('negative_prompt','a photo of a red ankle boot'), ('guidance_scale',2.),
    ('num_inference_steps',6), ('seed',7), ('scheduler','Euler ancestral')])
def test_every_control_changes_the_picture(explorer, name, value):
    before = explorer.image
    explorer.controls[name].value = value
    assert explorer.wait(600) and explorer.status.value=='done'
    assert difference([before], [explorer.image]) > 1


@pytest.mark.parametrize('name', list(schedulers))
def test_every_scheduler_of_the_list_draws(explorer, name):
    explorer.controls['scheduler'].value = name
    assert explorer.wait(600) and explorer.status.value=='done'


def test_the_picture_appears_step_by_step(sd, explorer):
    seen = []
    explorer.picture.observe(lambda change: seen.append(change['new']), 'value')
    explorer.status.observe(lambda change: seen.append(change['new']), 'value')
    explorer.controls['num_inference_steps'].value = 5
    assert explorer.wait(600)
    assert [s for s in seen if isinstance(s, str)] == [*(f'step {i} of 5' for i in range(1,6)), 'done']
    assert len({bytes(s) for s in seen if not isinstance(s, str)}) >= 4


def test_a_change_stops_the_run_under_way(explorer):
    started = threading.Event()
    explorer.status.observe(lambda change: started.set(), 'value')
    explorer.controls['num_inference_steps'].value = 100
    assert started.wait(600)
    first = explorer.thread
    explorer.controls['num_inference_steps'].value = 2
    first.join(600)
    assert not first.is_alive() and explorer.wait(600)
    assert explorer.status.value=='done'


def test_of_many_quick_changes_only_the_last_is_drawn(explorer):
    seen = []
    explorer.status.observe(lambda change: seen.append(change['new']), 'value')
    for i in range(20): explorer.controls['prompt'].value = 'a photo of a yellow bag'[:i+4]
    assert explorer.wait(600)
    assert len(seen) <= 4+1 and explorer.status.value=='done' and threading.active_count() < 10


def test_a_mistake_is_shown_and_the_next_run_works(explorer, sd):
    explorer.sd = with_parts(sd, callbacks=[lambda step: 1/0])
    explorer.draw()
    assert explorer.wait(600) and 'ZeroDivisionError' in explorer.status.value
    explorer.sd = sd
    explorer.draw()
    assert explorer.wait(600) and explorer.status.value=='done'


def test_it_says_which_words_the_model_has_never_seen(explorer):
    explorer.controls['prompt'].value = 'a photo of a cat'
    assert explorer.wait(600) and explorer.status.value.startswith('done; ') and "never seen 'cat'" in explorer.status.value


def test_it_leaves_the_pipeline_alone(sd, explorer):
    sd.scheduler.set_timesteps(17)
    explorer.controls['seed'].value = 9
    assert explorer.wait(600) and len(sd.scheduler.timesteps)==17


def test_the_widget_is_found_by_its_names(explorer):
    labels = [c.description for c in explorer.controls.values()]
    assert labels == ['prompt','negative prompt','guidance','steps','seed','scheduler']
    assert all(f"miniai-{name.replace('_','-')}" in c._dom_classes for name,c in explorer.controls.items())
    assert 'miniai-picture' in explorer.picture._dom_classes and 'miniai-explorer' in explorer.widget._dom_classes


def test_a_page_without_widgets_has_a_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    assert 'application/vnd.jupyter.widget-view+json' in bundle
    assert Image.open(io.BytesIO(base64.b64decode(bundle['image/png']))).size == (256,256)


@pytest.mark.parametrize('kwargs,error,words', [(dict(scheduler='Heun'), ValueError, 'DDIM, PNDM.*Heun'), (dict(steps=3), TypeError, 'steps')])
def test_an_explorer_that_cannot_be_meant(sd, kwargs, error, words):
    with pytest.raises(error, match=words): explore(sd, **kwargs)
