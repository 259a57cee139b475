"What `miniai.imagic` promises beyond its notebook: the caller's model untouched, any Stable Diffusion 1.x, and measures that mean what they say"
import copy, diffusers, numpy as np, pytest, torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings, strategies as st
from PIL import Image
from miniai.core import *
from miniai.emoji import *
from miniai.evaluation import load_judge
from miniai.imagic import *
from miniai.pipeline import *
from miniai.vae import image_psnr

prompt = 'a pink elephant on a yellow background'
short = small_recipe._replace(embedding_steps=2, unet_steps=2, batch_size=2, num_inference_steps=2)
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers


@pytest.fixture(scope='module')
def image():
    row = torch.tensor([[things.index('elephant'), own, nothing, own, 0, colors.index('yellow')]])
    return to_image(Pictures(['fxemoji'])(row, torch.Generator().manual_seed(1))[0])

@pytest.fixture(scope='module')
def fitted(sd, image): return Imagic(sd, image, prompt, short).fit(progress=False)

@pytest.fixture(scope='module')
def judge(): return load_judge()


def state(sd):
    "All that training could change in a model"
    nets = {k:v for k,v in vars(sd).items() if isinstance(v, torch.nn.Module)}
    tensors = {f'{k}.{n}':t.clone() for k,net in nets.items() for n,t in net.state_dict().items()}
    flags = {f'{k}.{n}':(p.requires_grad, p.grad is None) for k,net in nets.items() for n,p in net.named_parameters()}
    modes = {f'{k}.{n}':m.training for k,net in nets.items() for n,m in net.named_modules()}
    return tensors, flags, modes, repr(vars(sd.scheduler)), {k:id(v) for k,v in vars(sd).items()}

def assert_same(a, b):
    assert a[0].keys()==b[0].keys() and all(torch.equal(t, b[0][k]) for k,t in a[0].items())
    assert a[1:]==b[1:]

def weights(net): return torch.cat([p.detach().flatten() for p in net.parameters()])
def levels(image): return np.asarray(image).astype(int)


# The caller's model

def test_the_callers_model_is_never_changed(sd, image):
    before = state(sd)
    Imagic(sd, image, prompt, short).fit(progress=False).edit([0.,1.], progress=False)
    assert_same(before, state(sd))

def test_an_interrupted_fit_leaves_the_callers_model_alone(sd, image):
    before,imagic = state(sd),Imagic(sd, image, prompt, short)
    next(imagic.fit_embedding())
    next(imagic.fit_unet())
    assert not torch.equal(weights(imagic.unet), weights(sd.unet))
    assert_same(before, state(sd))

def test_both_stages_train_what_is_theirs_and_nothing_else(sd, image):
    one,two = (Imagic(sd, image, prompt, short) for _ in range(2))
    losses = list(one.fit_embedding()),list(two.fit_unet())
    assert [len(o) for o in losses]==[2,2]
    assert not torch.equal(one.embedding, one.target) and torch.equal(weights(one.unet), weights(sd.unet))
    assert torch.equal(two.embedding, two.target) and not torch.equal(weights(two.unet), weights(sd.unet))
    assert not one.embedding.requires_grad and not any(p.requires_grad for p in two.unet.parameters())

def test_the_same_seed_gives_the_same_edit_and_eta_goes_in_batches(sd, image, fitted):
    again = Imagic(sd, image, prompt, short).fit(progress=False)
    a,b = fitted.edit([0.,.5,1.], progress=False),[again.edit(eta, progress=False)[0] for eta in (0.,.5,1.)]
    assert max(np.abs(levels(x) - levels(y)).max() for x,y in zip(a, b))<=1
    other = Imagic(sd, image, prompt, short, seed=1).fit(progress=False)
    assert not torch.equal(other.embedding, fitted.embedding)

def test_eta_1_without_training_is_the_pipelines_picture(sd, image):
    imagic = Imagic(sd, image, prompt, short._replace(num_inference_steps=4))
    theirs = sd(prompt, seed=5, num_inference_steps=4, guidance_scale=short.guidance_scale, progress=False)[0]
    assert np.abs(levels(imagic.edit(1., seed=5, progress=False)[0]) - levels(theirs)).max()<=1

def test_etas_and_seeds_pair_up(fitted):
    assert len(fitted.edit(progress=False))==1
    assert len(fitted.edit(.5, seed=[1,2,3], progress=False))==3
    with pytest.raises(ValueError, match='2 etas|3 seeds'): fitted.edit([0.,1.], seed=[1,2,3])

def test_a_picture_is_drawn_from_its_own_noise(sd, image):
    imagic = Imagic(sd, image, prompt, short._replace(guidance_scale=1., num_inference_steps=10))
    psnr = lambda **kw: image_psnr(imagic.edit(0., progress=False, **kw)[0], image)
    assert psnr()>psnr(seed=0) + 3


# Any Stable Diffusion 1.x

def test_stable_diffusion_1_and_2_of_random_weights(folders):
    for name in 'sd15','sd21':
        sd = StableDiffusion.from_pretrained(folders[name], device='cpu')
        imagic = Imagic(sd, Image.new('RGB', (200,100), 'red'), 'a cat', short).fit(progress=False)
        assert [p.size for p in imagic.edit([0.,1.], progress=False)]==[(64,64)]*2

def test_half_precision_is_trained_in_single(sd, image):
    half = StableDiffusion(sd.tokenizer, sd.text_encoder, copy.deepcopy(sd.unet).to(torch.bfloat16), sd.scheduler, copy.deepcopy(sd.vae).to(torch.bfloat16))
    imagic = Imagic(half, image, prompt, short).fit(progress=False)
    assert half.unet.dtype==torch.bfloat16 and imagic.unet.dtype==torch.float32
    assert imagic.edit(1., progress=False)[0].size==(64,64)

def test_a_distilled_model_is_refused(folders, image):
    sd = StableDiffusion.from_pretrained(folders['distilled'], device='cpu')
    with pytest.raises(ValueError, match='distilled'): Imagic(sd, image, 'a cat')

def test_the_recipe_goes_by_size(sd):
    with torch.device('meta'): full = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    assert recipe_for(full) is paper_recipe and recipe_for(sd.unet) is small_recipe
    assert paper_recipe[:5]==(1000, 2e-3, 1., 1500, 5e-7)

@pytest.mark.parametrize('mode', ['L','RGBA','I;16'])
def test_pictures_of_any_mode(sd, image, mode):
    picture = Image.fromarray(np.full((64,64), 40000, np.uint16)) if mode=='I;16' else image.convert(mode)
    assert Imagic(sd, picture, prompt).latents.shape==sd.latent_shape()


# The loss

@pytest.mark.parametrize('kind', ['epsilon','v_prediction'])
def test_the_loss_is_that_of_diffusers_noise(sd, kind):
    theirs,ours = (cls.from_config(sd.scheduler.config, prediction_type=kind) for cls in (diffusers.DDPMScheduler, diffusers.DDIMScheduler))
    embedding,generator = encode_text(prompt, sd.tokenizer, sd.text_encoder),torch.Generator().manual_seed(1)
    latents = torch.randn(sd.latent_shape(), generator=torch.Generator().manual_seed(0))
    t = spread_timesteps(3, 1000, generator)
    noise = torch.randn((3,*latents.shape[1:]), generator=generator)
    copies = latents.repeat(3,1,1,1)
    with torch.no_grad():
        pred = sd.unet(theirs.add_noise(copies, noise, t), t, embedding.repeat(3,1,1)).sample
        wanted = (pred - (noise if kind=='epsilon' else theirs.get_velocity(copies, noise, t))).square().mean()
        got = reconstruction_loss(sd.unet, ours, latents, embedding, 3, torch.Generator().manual_seed(1))
    assert got.item()==pytest.approx(wanted.item(), rel=1e-4)

def test_reconstruction_gets_better(sd, image):
    imagic = Imagic(sd, image, prompt, short._replace(unet_steps=16, batch_size=4, decay=False, unet_lr=1e-3))
    loss = lambda: reconstruction_loss(imagic.unet, imagic.scheduler, imagic.latents, imagic.embedding, 16, torch.Generator().manual_seed(7)).item()
    with torch.no_grad(): before = loss()
    list(imagic.fit_unet())
    with torch.no_grad(): assert loss()<before

@given(n=st.integers(1,40), total=st.integers(40,2000), seed=st.integers(0,99))
@settings(deadline=None, derandomize=True)
def test_timesteps_are_spread(n, total, seed):
    t = spread_timesteps(n, total, torch.Generator().manual_seed(seed)).tolist()
    assert len(t)==n and all(i*total/n - 1 <= v <= (i+1)*total/n for i,v in enumerate(t)) and t==sorted(t) and 0<=t[0] and t[-1]<total


# What stays and what's reached

@given(seed=st.integers(0,999))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_silhouettes_are_sets_of_pixels(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((2,20,20))<rng.random()
    masks[:,:2],masks[:,-2:],masks[:,:,:2],masks[:,:,-2:] = [False]*4
    a,b = (silhouette(torch.tensor(np.where(m, .9, .1), dtype=torch.float32).expand(1,3,20,20)) for m in masks)
    assert (a[0].numpy()==masks[0]).all()
    union = (masks[0]|masks[1]).sum()
    assert iou(a, b).item()==pytest.approx((masks[0]&masks[1]).sum()/union if union else 1)

def test_a_box_surrounds_a_thing_but_not_a_stray_pixel():
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:,20:40,10:50] = True
    box = masks.clone()
    masks[:,20:30,10:30] = False # a corner is missing
    masks[:,2,2] = True # a stray pixel
    assert iou(boxes(masks), box).item()>.85
    assert not boxes(torch.zeros(1, 64, 64, dtype=torch.bool)).any()

@pytest.mark.parametrize('kind', edit_kinds)
def test_an_edit_changes_just_what_its_goal_says(judge, kind):
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        edit = random_edit(kind, Pictures(['fxemoji']), judge, generator)
        changed = ((edit.x - edit.perfect).abs().amax(0)>.02)[None]
        mask = silhouette(torch.stack([edit.x, edit.perfect])).any(0)
        mask = torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)>0 # with its soft rim
        if kind=='background': assert changed[0,[0,0,-1,-1],[0,-1,0,-1]].all()
        else: assert changed.any() and not (changed & ~mask).any()
        if kind=='add': assert (edit.goal[2]<nothing) and not (changed & stays('add', edit.goal, edit.x[None])).any()
        assert not held_out(torch.tensor([edit.goal])) and not reached(judge, kind, edit.goal, edit.x[None])

@pytest.mark.parametrize('kind', ['color','background'])
def test_a_perfect_edit_in_an_unknown_style_is_reached(judge, kind):
    generator = torch.Generator().manual_seed(6)
    edits = [random_edit(kind, Pictures(['fxemoji']), judge, generator) for _ in range(6)]
    assert sum(reached(judge, kind, e.goal, e.perfect[None]).item() for e in edits)>=5

def test_what_was_measured_holds_what_the_notebook_says():
    found = measured('imagic')
    assert found['edits']>=180 and found['seeds']>=3 and found['recipe']==small_recipe._asdict()
    ours = found['table'][f'imagic {small_recipe.eta:g}']
    assert all(ours[kind]['n']>=36 for kind in edit_kinds)
    assert sum(ours[kind]['n'] for kind in edit_kinds)==ours['all']['n']==found['edits']
