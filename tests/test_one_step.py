"One step: the losses move samples the right way, each player learns in its own turn, a stopped run goes on, and the model's folder loads everywhere."
import copy, json, shutil
from pathlib import Path
import pytest, torch
from diffusers import StableDiffusionPipeline
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings, strategies as st
from torch import nn
from miniai import own
from miniai.core import embedded_model
from miniai.one_step import *
from miniai.training import new_scheduler, new_unet
from miniai.unet import UNet2DConditionModel, predict_original

schedule = new_scheduler()

@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.sampled_from([.9, .5, .1]))
def test_disagreement_of_noises_is_that_of_pictures(seed, alpha_bar):
    "As in the paper's equations, where each sample is divided by how far the teacher's picture is off"
    x,noise,real,fake = torch.randn(4, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = alpha_bar**.5*x + (1-alpha_bar)**.5*noise
    real_x,fake_x = (predict_original(z, o, alpha_bar) for o in (real,fake))
    papers = (fake_x - real_x)/(x - real_x).abs().mean((1,2,3), keepdim=True)
    assert torch.allclose(disagreement(real, fake, noise), papers, rtol=1e-6, atol=1e-9)

class Pair(nn.Module):
    "A fake that predicts a constant noise, and a logit"
    def __init__(self, logit=True):
        super().__init__()
        self.noise,self.scale,self.logit = nn.Parameter(torch.zeros(2)),nn.Parameter(torch.zeros(1, 2)),logit
    def forward(self, z, t, cond): return self.noise.expand_as(z),(z*self.scale).sum(1) if self.logit else None

class Shift(nn.Module):
    "A generator that turns and shifts"
    def __init__(self):
        super().__init__()
        self.turn,self.by = nn.Parameter(torch.eye(2)),nn.Parameter(torch.zeros(2))
    def forward(self, z, cond): return z@self.turn + self.by

def examples(rng): return None,torch.randn(8, 2, generator=rng)
def players(logit=True): return DistributionMatching(Shift(), lambda z,t,cond: torch.ones_like(z), Pair(logit), examples, schedule)

def test_the_gradient_of_the_loss_is_the_disagreement():
    x,rng = torch.randn(8, 2).requires_grad_(),lambda: torch.Generator().manual_seed(0)
    pair = players(logit=False)
    pair.generator_loss(x, None, rng()).backward()
    _,_,noise = pair.noisy(x, rng())
    want = disagreement(torch.ones(8, 2), torch.zeros(8, 2), noise)/16
    assert torch.allclose(x.grad, want, rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('logit', [True,False])
def test_each_player_learns_in_its_own_turn(logit):
    pair,rng = players(logit),torch.Generator().manual_seed(0)
    cond,data = pair.examples(rng)
    x = pair.model(torch.randn(data.shape, generator=rng), cond)
    pair.generator_loss(x, cond, rng).backward()
    assert pair.model.by.grad.any() and pair.fake.noise.grad is None
    assert all(p.requires_grad for p in pair.fake.parameters())
    before = pair.model.by.grad.clone()
    pair.fake_loss(x, data, cond, rng).backward()
    assert pair.fake.noise.grad.any() and torch.equal(pair.model.by.grad, before)

how = dict(steps=12, lr=.01, fake_lr=.01, lead=3, ema=.5)

def test_the_generator_waits_while_the_fake_leads():
    pair = players()
    for o in match(pair, **how):
        if o.step==3: assert not pair.model.by.any() and pair.fake.noise.any()
    assert pair.model.by.any()

@pytest.mark.this_machine('bits')
@pytest.mark.parametrize('stop', [2, 7])
def test_a_stopped_run_goes_on(tmp_path, stop):
    whole,part,rest = players(),players(),players()
    for _ in match(whole, **how): pass
    next(o for o in match(part, **how, checkpoint=tmp_path/'c.pt', every=2) if o.step==stop)
    for _ in match(rest, **how, checkpoint=tmp_path/'c.pt', every=2): pass
    for a,b in zip(whole.parameters(), rest.parameters()): assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)

def test_the_guidance_scale_goes_into_a_bias():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**{**new_unet((16,16), 32).config, 'time_cond_proj_dim': 8})
    args = torch.randn(2, 4, 8, 8),torch.tensor([999, 3]),torch.randn(2, 5, 32)
    cond = get_timestep_embedding(torch.full((2,), 3500.), 8, downscale_freq_shift=1)
    with torch.no_grad():
        want = unet(*args, timestep_cond=cond).sample
        got = fixed_guidance(unet, 4.5)(*args).sample
    assert torch.allclose(got, want, rtol=1e-3, atol=1e-4)
    assert fixed_guidance(unet, 4.5) is unet and not unet.config.time_cond_proj_dim
    assert UNet2DConditionModel(**unet.config).load_state_dict(unet.state_dict())

tiny = dict(pairs=2, pair_steps=1, steps=2, latents=8, batch_size=2, fake_updates=1)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A model of one or two steps of each part of the recipe"
    folder = tmp_path_factory.mktemp('one_step')/'model'
    main(out=str(folder), **tiny)
    return folder

def test_diffusers_and_we_draw_the_same_in_one_step(made):
    ours = own.StableDiffusion.from_pretrained(made, device='cpu')
    assert ours.unet.guidance_scale==1 and ours.unet.config.time_cond_proj_dim is None
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = StableDiffusionPipeline.from_pretrained(made, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    a = ours('a red bell', latents=latents, num_inference_steps=1, progress=False)[0]
    b = theirs('a red bell', latents=latents, num_inference_steps=1, guidance_scale=1.).images[0]
    assert max(abs(x-y) for x,y in zip(a.tobytes(), b.tobytes()))<=1

def test_the_folder_holds_records_and_what_was_learned(made):
    about = json.loads((made/'miniai.json').read_text())
    assert about['guidance_scale']==1 and about['learned_guidance']==json.loads((embedded_model()/'miniai.json').read_text())['guidance_scale']
    assert [(made/'training'/f'{name}.csv').read_text().count('\n') for name in ('pairs','matching')]==[1,1]
    assert own.StableDiffusion.from_pretrained(made.with_name('model-checkpoints')/'start', device='cpu')

def test_the_recipe_begins_with_a_student(made, tmp_path):
    shutil.copytree(made.with_name('model-checkpoints'), tmp_path/'c', ignore=lambda *_: ['pairs.safetensors','pairs.pt','matching.pt'])
    main(out=str(tmp_path/'model'), checkpoints=str(tmp_path/'c'), student=str(made), **{**tiny, 'steps':1})
    assert not (tmp_path/'c/pairs.safetensors').exists() and not (tmp_path/'model/training/pairs.csv').exists()
    before,start = (own.UNet2DConditionModel.from_pretrained(o, 'unet').state_dict() for o in (made, tmp_path/'c/start'))
    assert all(torch.equal(before[k], start[k]) for k in before)

def test_the_live_explorer_draws_each_letter(made):
    live = Live(own.StableDiffusion.from_pretrained(made, device='cpu'))
    before = live.image.tobytes()
    live.controls['prompt'].value = 'a cas' # an unknown word says nothing while it's typed
    assert live.image.tobytes()!=before and live.status.value.endswith(' ms')
    assert live.controls['prompt'].continuous_update and set(live.controls)=={'prompt','seed'}

def test_the_fast_command_draws_in_one_step(made, tmp_path, monkeypatch):
    from PIL import Image
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, 'embedded_model', lambda name=None: made if name=='one_step' else embedded_model(name))
    own.main('a red bell', fast=True, seed=0, out='fast.png')
    want = own.StableDiffusion.from_pretrained(made, device='cpu')('a red bell', seed=0, num_inference_steps=1, progress=False)[0]
    assert Image.open('fast.png').tobytes()==want.tobytes()
