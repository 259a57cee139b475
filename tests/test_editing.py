"What `miniai.editing` promises beyond its notebook: the library's pictures from pictures, masks and pictures of every kind, films, and inversion"
import diffusers, numpy as np, pytest, torch
from diffusers import DDIMInverseScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from hypothesis import given, settings, strategies as st
from PIL import Image

from miniai.callbacks import EarlyStop, Record, schedulers, with_parts
from miniai.core import *
from miniai.editing import *
from miniai.pipeline import *
from miniai.vae import *

prompt = 'a red house on a yellow background'
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')
names = ['DDIM','PNDM','LMSDiscrete','EulerDiscrete','EulerAncestralDiscrete','DPMSolverMultistep']


@pytest.fixture
def photo(photos): return photos[5]


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

runs = [(.02,50), (.3,10), (.58,20), (.8,7), (1,5)]

@pytest.mark.parametrize('name,strength,n', [(name,*run) for i,name in enumerate(names) for j,run in enumerate(runs) if (i+j)%5 in (0,2)]) # Each strength with two schedulers or three
def test_the_librarys_picture_from_a_picture(tiny, photo, name, strength, n):
    own = scheduled(tiny, name)
    args = dict(strength=strength, num_inference_steps=n, guidance_scale=4, negative_prompt='a cat')
    ours = image_to_image(own, prompt, photo, generator=seeded(3)[0], **args)
    assert difference(ours, library_with(StableDiffusionImg2ImgPipeline, own)(prompt, photo, generator=seeded(3)[0], **args).images) <= 1


def test_the_librarys_pictures_from_the_embedded_model(sd, photo):
    args = dict(num_inference_steps=4, guidance_scale=4)
    library = library_with(StableDiffusionImg2ImgPipeline, sd)(prompt, photo, generator=seeded(3)[0], strength=.5, **args).images
    assert difference(image_to_image(sd, prompt, photo, generator=seeded(3)[0], strength=.5, **args), library) <= 1
    library = library_with(StableDiffusionInpaintPipeline, sd)(prompt, photo, half(), height=64, width=64, generator=seeded(3)[0], strength=1., **args).images
    assert difference(inpaint(sd, prompt, photo, half(), paste=False, generator=seeded(3)[0], strength=1., **args), library) <= 1


@pytest.mark.parametrize('name,config', [('HeunDiscrete', {}), ('EulerDiscrete', dict(use_karras_sigmas=True)), ('DPMSolverMultistep', dict(timestep_spacing='trailing')), ('DDPM', {})])
def test_the_librarys_picture_with_other_noise_levels(tiny, photo, name, config):
    own = scheduled(tiny, name, **config)
    args = dict(strength=.6, num_inference_steps=7, guidance_scale=4)
    assert difference(image_to_image(own, prompt, photo, generator=seeded(3), **args),
        library_with(StableDiffusionImg2ImgPipeline, own)(prompt, photo, generator=seeded(3), **args).images) <= 1


@pytest.mark.parametrize('change', [dict(strength=.5), dict(seed=2), dict(guidance_scale=2), dict(prompt='a cat'), dict(negative_prompt='a red star'), dict(image=Image.new('RGB', (64,64)))])
def test_another_picture_would_be_noticed(tiny, photo, change):
    args = dict(prompt=prompt, image=photo, strength=.8, num_inference_steps=8, seed=1)
    assert difference(image_to_image(tiny, **args), image_to_image(tiny, **{**args, **change})) > 1


@pytest.mark.parametrize('name', names)
def test_a_batch_is_the_librarys_and_each_of_its_pictures_comes_alone(tiny, photos, name):
    own = scheduled(tiny, name)
    some,prompts = photos[:3],['a dog','a cat',prompt]
    args = dict(strength=.7, num_inference_steps=6, guidance_scale=3)
    batch = image_to_image(own, prompts, some, seed=5, **args)
    assert difference(batch, library_with(StableDiffusionImg2ImgPipeline, own)(prompts, some, generator=seeded(5,6,7), **args).images) <= 1
    assert difference(batch[1:2], image_to_image(own, prompts[1], some[1], seed=6, **args)) <= 1


def test_one_prompt_for_several_pictures_and_one_picture_for_several_prompts(tiny, photos):
    args = dict(seed=5, num_inference_steps=3)
    assert difference(image_to_image(tiny, prompt, photos[:2], **args), image_to_image(tiny, [prompt]*2, photos[:2], **args)) <= 1
    assert difference(image_to_image(tiny, [prompt,'a cat'], photos[0], **args), image_to_image(tiny, [prompt,'a cat'], [photos[0]]*2, **args)) <= 1
    with pytest.raises(ValueError, match='2 prompts for 3'): image_to_image(tiny, [prompt]*2, photos[:3], **args)


def test_a_larger_picture_keeps_its_size_or_is_stretched(tiny, photo):
    wide = photo.resize((96,72))
    args = dict(seed=0, num_inference_steps=4)
    ours = image_to_image(tiny, prompt, wide, generator=seeded(0)[0], num_inference_steps=4, guidance_scale=4)
    theirs = library_with(StableDiffusionImg2ImgPipeline, tiny)(prompt, wide, generator=seeded(0)[0], num_inference_steps=4, guidance_scale=4, strength=.8).images
    assert ours[0].size==(96,72) and difference(ours, theirs) <= 1
    assert image_to_image(tiny, prompt, Image.new('RGB', (70,33)), height=64, width=64, **args)[0].size == (64,64)


@pytest.mark.parametrize('mode', ['RGBA','I;16']) # `to_rgb` is tested with all of them in test_clip
def test_pictures_of_any_mode(tiny, photo, mode):
    if mode=='I;16': image = Image.fromarray((np.asarray(photo.convert('L')).astype(np.uint16)*257))
    else: image = photo.convert(mode)
    mask = Image.new('L', (64,64), 'white')
    mask.paste(0, (0,0,64,32))
    drawn = image_to_image(tiny, prompt, image, num_inference_steps=2, seed=0), inpaint(tiny, prompt, image, mask, num_inference_steps=2, seed=0)
    assert all(im.mode=='RGB' and im.size==(64,64) for ims in drawn for im in ims)
    assert invert(tiny, image, num_inference_steps=2).shape == (1,4,8,8)


@given(st.floats(.001, 1), st.integers(1, 1000))
@settings(deadline=None, derandomize=True)
def test_the_steps_that_are_left_are_the_librarys(strength, n):
    class Pipe:
        class scheduler: timesteps,order = torch.arange(n),1
    left = len(StableDiffusionImg2ImgPipeline.get_timesteps(Pipe, n, strength, None)[0])
    if left: assert n - steps_to_skip(Pipe.scheduler, strength, n) == left
    else:
        with pytest.raises(ValueError, match='none of'): steps_to_skip(Pipe.scheduler, strength, n)


# Painting into a picture

def half(size=(64,64), left=0):
    mask = Image.new('L', size)
    mask.paste(255, (left or size[0]//2, 0, *size))
    return mask

@pytest.mark.parametrize('strength', [1,.6])
@pytest.mark.parametrize('name', [n for n in names if n!='EulerAncestralDiscrete']) # there the library draws noise for an encoding that it does not use
def test_the_librarys_painting(tiny, photo, name, strength):
    own = scheduled(tiny, name)
    args = dict(strength=strength, num_inference_steps=6, guidance_scale=4)
    ours = inpaint(own, prompt, photo, half(), paste=False, generator=seeded(3)[0], **args)
    theirs = library_with(StableDiffusionInpaintPipeline, own)(prompt, photo, half(), height=64, width=64, generator=seeded(3)[0], **args).images
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize('strength', [1,.5])
def test_what_is_outside_the_mask_is_kept_to_the_last_bit(tiny, photos, strength):
    image,mask = photos[5],half(left=37)
    drawn = inpaint(tiny, [prompt,'a cat'], image, mask, strength=strength, num_inference_steps=5, seed=0)
    outside = np.asarray(mask)==0
    for im in drawn: assert (np.asarray(im)[outside]==np.asarray(image)[outside]).all()
    assert difference(drawn[:1], [image]) > 20
    plain = inpaint(tiny, prompt, image, mask, paste=False, num_inference_steps=5, seed=0)[0]
    assert (np.asarray(plain)[outside]!=np.asarray(image)[outside]).any()


def test_the_latents_outside_the_mask_are_the_pictures_own(tiny, photo):
    record = Record()
    inpaint(with_parts(tiny, callbacks=[record]), prompt, photo, half(), num_inference_steps=4, generator=seeded(0)[0])
    known = encode_image(photo, tiny.vae, seeded(0)[0])
    blend = Blend(tiny.scheduler, known, torch.randn(known.shape), latent_mask(half(), 8))
    step = record[-1]
    blend(step)
    assert torch.equal(step.latents[...,:4], known[...,:4]) and not torch.allclose(step.latents[...,4:], known[...,4:])


def test_a_run_that_stops_early_keeps_the_picture_outside(sd, photo):
    drawn = inpaint(with_parts(sd, callbacks=[EarlyStop(.1)]), prompt, photo, half(), paste=False, num_inference_steps=12, seed=0)[0]
    through = decode(encode_image(photo, sd.vae), sd.vae)[0]
    assert np.abs(np.asarray(drawn)[:,:24].astype(int) - np.asarray(through)[:,:24]).mean() < 6


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
    places = latent_mask(mask, 8)
    large = places.repeat_interleave(8, 2).repeat_interleave(8, 3)[0,0].numpy()
    assert large[np.asarray(mask)>0].all() and places.sum() <= (w/8+2)*(h/8+2)


# Ways

@pytest.mark.parametrize('name', [n for n in names if n!='EulerAncestralDiscrete']) # which draws more noise on the way
def test_the_stations_of_a_way_are_the_pipelines_pictures(tiny, name):
    own = scheduled(tiny, name)
    texts,seeds,args = [prompt,'a cat','a green ghost'],[3,1,2],dict(num_inference_steps=5, guidance_scale=3)
    way = interpolate(own, texts, seeds, 5, negative_prompt='a top hat', batch_size=2, **args)
    assert len(way)==5
    for i,(text,seed) in enumerate(zip(texts, seeds)):
        assert difference(way[2*i:2*i+1], own(text, seed=seed, negative_prompt='a top hat', **args)) <= 1


def test_a_way_does_not_depend_on_its_batches(tiny):
    args = dict(num_inference_steps=4)
    one,many = (interpolate(tiny, [prompt,'a cat'], 0, 5, batch_size=b, **args) for b in (1,5))
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
def test_the_librarys_inverse_steps(tiny, n, prediction_type):
    config = {**tiny.scheduler.config, 'prediction_type':prediction_type}
    ours,theirs = DDIMInverse(config),DDIMInverseScheduler.from_config(config)
    theirs.initial_alpha_cumprod = theirs.alphas_cumprod[0]
    x = y = torch.randn(2,4,8,8, generator=seeded(0)[0])
    for s in ours,theirs: s.set_timesteps(n)
    assert ours.timesteps.tolist()==theirs.timesteps.tolist()
    for i,t in enumerate(ours.timesteps):
        out = torch.randn(x.shape, generator=seeded(i)[0])
        x,y = ours.step(out, t, x).prev_sample,theirs.step(out, t, y).prev_sample
        assert torch.allclose(x, y, rtol=1e-4, atol=1e-4*y.abs().max().item())


def test_there_and_back_again(tiny, photos):
    "If the network said the same on both ways, the way back would end where the way there began"
    inverse,ddim = DDIMInverse(tiny.scheduler.config),schedulers['DDIM'].from_config(tiny.scheduler.config)
    x = start = torch.randn(1,4,8,8, generator=seeded(0)[0])
    said = torch.randn(9,1,4,8,8, generator=seeded(1)[0])
    for s in inverse,ddim: s.set_timesteps(9)
    for i,t in enumerate(inverse.timesteps): x = inverse.step(said[i], t, x).prev_sample
    for i,t in enumerate(ddim.timesteps): x = ddim.step(said[8-i], t, x).prev_sample
    assert torch.allclose(x, start, atol=1e-4*start.abs().max().item())


def test_a_photo_comes_back_from_its_noise(sd, photos):
    some = photos[:2]
    noise = invert(sd, some, num_inference_steps=25)
    ddim = with_parts(sd, scheduler=schedulers['DDIM'].from_config(sd.scheduler.config))
    again = ddim(['']*2, latents=noise, guidance_scale=1, num_inference_steps=25)
    limit = [image_psnr(decode(encode_image(im, sd.vae), sd.vae)[0], im) for im in some]
    assert np.mean([image_psnr(a, b) for a,b in zip(again, some)]) > np.mean(limit)-6
    assert noise.shape==sd.latent_shape(2) and .5<noise.std()<1.5 and not noise.is_inference()


def test_a_distilled_model_inverts_without_guidance(folders, photos):
    sd,seen = StableDiffusion.from_pretrained(folders['distilled'], device='cpu'),[]
    sd.unet.register_forward_pre_hook(lambda net,args,kwargs: seen.append(kwargs['timestep_cond']), with_kwargs=True)
    invert(sd, photos[0], num_inference_steps=2)
    assert all(torch.equal(o, guidance_features(torch.ones(len(o)), o.shape[1])) for o in seen) and len(seen)==2

def test_inversion_in_a_batch_and_alone(tiny, photos):
    some,texts = photos[:2],['a dog','a cat']
    both = invert(tiny, some, texts, num_inference_steps=5)
    assert (both[1:]-invert(tiny, some[1], texts[1], num_inference_steps=5)).abs().max() <= 1e-3*both.abs().max()
    with pytest.raises(ValueError, match='2 pictures for 3'): invert(tiny, some, ['a']*3)
    with pytest.raises(ValueError, match='at least 1'): invert(tiny, some, num_inference_steps=0)


def test_a_film_of_less_quality_is_smaller(photos, tmp_path):
    sizes = [save_animation(photos[:6], tmp_path/'film.webp', quality=q).stat().st_size for q in (10,90,None)]
    assert sizes==sorted(sizes) and sizes[0]<sizes[1]/2
