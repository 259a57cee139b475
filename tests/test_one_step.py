"One step: the losses move samples the right way, each network learns in its own turn, a stopped run goes on, and the command makes a model that both pipelines load."
import copy, json, shutil, warnings
import pytest, torch
from hypothesis import given, settings, strategies as st
from students import same_pictures, some_data, tiny_teacher
from torch import nn
from miniai import one_step
from miniai.guided import predict, save_told_student, told_student
from miniai.one_step import *
from miniai.own import StableDiffusion
from miniai.pipeline import encode_text
from miniai.progressive import copy_json, new_student
from miniai.training import new_scheduler
from miniai.unet import predict_original

seeded = lambda seed=0: torch.Generator().manual_seed(seed)

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tiny_teacher(tmp_path_factory.mktemp('tiny')/'teacher')

@pytest.fixture
def teacher(folder): return StableDiffusion.from_pretrained(folder, device='cpu')

@pytest.fixture(scope='module')
def student(folder, tmp_path_factory):
    "The folder of a one-step student that heeds the guidance scale"
    made,out = told_student(StableDiffusion.from_pretrained(folder, device='cpu')),tmp_path_factory.mktemp('student')
    nn.init.normal_(made.unet.time_embedding.cond_proj.weight, std=.1, generator=seeded())
    save_told_student(made, 1, folder, out)
    return out

# The losses, in the plane

@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.sampled_from([.9, .5, .1]))
def test_the_gradient_of_noises_is_the_papers_gradient_of_pictures(seed, alpha_bar):
    "Where each sample's is divided by how far off the teacher's picture is"
    x,noise,real,fake = torch.randn(4, 3, 4, 8, 8, generator=seeded(seed), dtype=torch.float64)
    z = alpha_bar**.5*x + (1-alpha_bar)**.5*noise
    real_x,fake_x = (predict_original(z, o, alpha_bar) for o in (real,fake))
    papers = (fake_x - real_x)/(x - real_x).abs().mean((1,2,3), keepdim=True)
    assert torch.allclose(matching_gradient(real, fake, noise), papers, rtol=1e-6, atol=1e-9)

class Fake(nn.Module):
    "Predicts a constant noise, and a logit"
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
def ones(z, t, cond): return torch.ones_like(z)
def in_the_plane(logit=True, **kwargs): return DistributionMatching(Shift(), ones, Fake(logit), examples, new_scheduler(), **kwargs)

def test_the_gradient_of_the_loss_is_the_matching_gradient():
    x,loss = torch.randn(8, 2, generator=seeded()).requires_grad_(),in_the_plane(logit=False)
    loss.generator_loss(x, None, seeded()).backward()
    _,_,noise = loss.noisy(x, seeded())
    assert torch.allclose(x.grad, matching_gradient(torch.ones(8, 2), torch.zeros(8, 2), noise)/16, rtol=1e-4, atol=1e-6)

def test_the_generator_is_also_moved_to_where_samples_look_real():
    x,(alone,both) = torch.randn(8, 2, generator=seeded()),(in_the_plane(gan=gan) for gan in (0.,100.))
    grads = []
    for loss in (alone,both):
        loss.fake.scale.data[:] = torch.tensor([3.,0.]) # Real is where the first coordinate is large
        y = x.clone().requires_grad_()
        loss.generator_loss(y, None, seeded()).backward()
        grads.append(y.grad)
    gan = grads[1] - grads[0]
    assert (gan[:,0]<0).all() and torch.allclose(gan[:,1], torch.zeros(8), atol=1e-5)

def test_the_fakes_logit_learns_to_tell_data_from_samples():
    loss,x = in_the_plane(),torch.randn(8, 2, generator=seeded())
    loss.fake_loss(x - 5, x + 5, None, seeded()).backward()
    assert (loss.fake.scale.grad<0).all() # Larger coordinates should look more real

@pytest.mark.parametrize('logit', [True,False])
def test_each_network_learns_in_its_own_turn(logit):
    loss,rng = in_the_plane(logit),seeded()
    cond,data = loss.examples(rng)
    x = loss.model(torch.randn(data.shape, generator=rng), cond)
    loss.generator_loss(x, cond, rng).backward()
    assert loss.model.by.grad.any() and loss.fake.noise.grad is None
    assert all(p.requires_grad for p in loss.fake.parameters())
    before = loss.model.by.grad.clone()
    loss.fake_loss(x, data, cond, rng).backward()
    assert loss.fake.noise.grad.any() and torch.equal(loss.model.by.grad, before)

# The loop

how = dict(steps=12, lr=.01, lead=3, ema=.5)

def test_the_generator_waits_while_the_fake_leads():
    loss = in_the_plane()
    for o in match(loss, **how):
        if o.step==3: assert not loss.model.by.any() and loss.fake.noise.any()
    assert loss.model.by.any()

@pytest.mark.parametrize('updates', [1, 4])
def test_the_fake_learns_several_times_for_each_step_of_the_generator(updates):
    loss,turns = in_the_plane(),[]
    for name in ('generator_loss','fake_loss'):
        real = getattr(loss, name)
        setattr(loss, name, lambda *args,name=name,real=real: turns.append(name) or real(*args))
    for _ in match(loss, **{**how, 'steps': 2}, fake_updates=updates): pass
    assert turns==(['generator_loss'] + ['fake_loss']*updates)*2

def test_the_generators_weights_are_averages_at_the_end():
    loss = in_the_plane()
    for o in match(loss, **how): last = loss.model.by.detach().clone()
    assert not torch.equal(loss.model.by, last)
    assert torch.equal(loss.model.by, next(p for p in o.average.shadow_params if p.shape==(2,)))

def test_no_batch_is_one_that_the_student_has_seen():
    "Stage one draws from stream 0, a halving from the one of its number of steps"
    loss,seeds = in_the_plane(),[]
    loss.examples = lambda rng: seeds.append(rng.initial_seed()) or examples(rng)
    for _ in match(loss, **how): pass
    assert len(set(seeds))==12 and not {o%1000 for o in seeds} & {0,1,2,4,8,16,32,64,128,256,512}

@pytest.mark.this_machine('bits')
@pytest.mark.parametrize('stop', [2, 7])
def test_a_stopped_run_goes_on(tmp_path, stop):
    whole,part,rest = in_the_plane(),in_the_plane(),in_the_plane()
    for _ in match(whole, **how): pass
    kept = dict(checkpoint=tmp_path/'c.pt', every=2)
    next(o for o in match(part, **how, **kept) if o.step==stop)
    steps = [o.step for o in match(rest, **how, **kept)]
    assert steps[0]==stop//2*2 + 1 and all(torch.equal(a, b) for a,b in zip(whole.parameters(), rest.parameters()))

# The networks

@torch.no_grad()
def test_the_generator_computes_what_the_pipeline_draws_in_one_step(teacher):
    made,noise = new_student(teacher),some_data(2)[0]
    x = OneStepUNet(made)(noise, encode_text(['a cat','a dog'], teacher.tokenizer, teacher.text_encoder))
    *_,last = made.steps(['a cat','a dog'], latents=noise, num_inference_steps=1, guidance_scale=1.)
    assert (x - last.latents).norm()<=1e-3*x.norm()

@torch.no_grad()
def test_the_teacher_is_guided(teacher):
    z,t = some_data(3)[0],torch.tensor([900,500,100])
    prompted,alone = (encode_text([o]*3, teacher.tokenizer, teacher.text_encoder) for o in ('a cat',''))
    a,b = (teacher.unet(z, t, o).sample for o in (prompted,alone))
    assert torch.allclose(guided_teacher(teacher, 4.)(z, t, prompted), 4*a - 3*b, rtol=1e-3, atol=1e-4)

@torch.no_grad()
def test_the_fake_begins_as_the_teacher_and_has_a_logit_for_each_picture(teacher):
    z,t,words = some_data(3)[0],torch.tensor([900,500,100]),encode_text(['a cat']*3, teacher.tokenizer, teacher.text_encoder)
    fake = FakeUNet(copy.deepcopy(teacher.unet))
    noise,logits = fake(z, t, words)
    assert torch.allclose(noise, teacher.unet(z, t, words).sample, rtol=1e-4, atol=1e-5) and logits.shape==(3,)
    _,changed = fake(torch.cat([z[:1]+1, z[1:]]), t, words)
    assert logits[0]!=changed[0] and torch.allclose(logits[1:], changed[1:], rtol=1e-3, atol=1e-4)

def test_matching_changes_generator_and_fake_but_not_the_teacher(teacher):
    made,fake = new_student(teacher),FakeUNet(copy.deepcopy(teacher.unet))
    loss = DistributionMatching(OneStepUNet(made), guided_teacher(teacher, 4.), fake, captioned_latents(teacher, *some_data(), batch_size=2), teacher.scheduler)
    weights = lambda net: {k: v.clone() for k,v in net.state_dict().items()}
    before = [weights(o) for o in (teacher.unet,teacher.text_encoder)]
    for _ in match(loss, steps=2, lr=1e-2, lead=0): pass
    after = [weights(o) for o in (teacher.unet,teacher.text_encoder)]
    assert all(torch.equal(v, b[k]) for a,b in zip(before, after) for k,v in a.items())
    for net in (made.unet,fake.unet): assert not torch.equal(net.conv_out.weight, teacher.unet.conv_out.weight)

@torch.no_grad()
def test_the_guidance_scale_goes_into_a_bias(student):
    unet = StableDiffusion.from_pretrained(student, device='cpu').unet
    args = some_data(2)[0],torch.tensor([999, 3]),torch.randn(2, 5, 32, generator=seeded())
    want,other = (predict(unet, *args, torch.full((2,), g)) for g in (4.5,1.))
    assert fixed_guidance(unet, 4.5) is unet
    got = unet(*args).sample
    assert (got - want).norm()<=1e-3*want.norm() and (got - other).norm()>1e-2*(want - other).norm()>0
    assert type(unet)(**unet.config).load_state_dict(unet.state_dict())

# The command

@pytest.fixture(scope='module')
def made(folder, student, tmp_path_factory):
    out = tmp_path_factory.mktemp('one_step')/'model'
    one_step.main(student=str(student), out=str(out), model=str(folder), guidance_scale=3., steps=2, pictures=32)
    return out

def test_diffusers_and_we_draw_the_same_in_one_step(made):
    ours = StableDiffusion.from_pretrained(made, device='cpu')
    assert ours.unet.config.time_cond_proj_dim is None
    assert same_pictures(ours, made, num_inference_steps=1, guidance_scale=1.)

def test_the_folder_says_how_to_draw_and_what_was_learned(made):
    about = json.loads((made/'miniai.json').read_text())
    assert (about['num_inference_steps'],about['guidance_scale'],about['learned_guidance'])==(1, 1, 3)
    assert [p.name for p in (made/'training').iterdir()]==['matching.csv']

def test_it_begins_with_the_student_at_the_scale_to_learn(made, student):
    "In two steps only the fake has learned"
    first = fixed_guidance(StableDiffusion.from_pretrained(student, device='cpu').unet, 3.).state_dict()
    saved = StableDiffusion.from_pretrained(made, device='cpu').unet.state_dict()
    assert first.keys()==saved.keys() and all((first[k] - v).norm()<=2e-3*first[k].norm() for k,v in saved.items())

@pytest.mark.parametrize('wrong', ['missing', 'four steps', 'another text encoder', 'another vae', 'scale'])
def test_what_cannot_be_trained_is_refused_before_any_work(folder, student, tmp_path, capsys, wrong):
    copied = tmp_path/'student'
    if wrong!='missing': shutil.copytree(student, copied)
    if wrong=='four steps': copy_json(copied/'miniai.json', copied/'miniai.json', num_inference_steps=4)
    for part in ('text_encoder','vae'):
        file = next((copied/part).glob('*.safetensors')) if wrong==f"another {part.replace('_', ' ')}" else None
        if file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1]^1]))
    with pytest.raises(SystemExit) as stopped:
        one_step.main(student=str(copied), out=str(tmp_path/'out'), model=str(folder), guidance_scale=9. if wrong=='scale' else None, steps=1, pictures=4)
    assert stopped.value.code==2 and ('from 1 to 8' if wrong=='scale' else str(copied)) in capsys.readouterr().err
    assert not list(tmp_path.glob('out*'))

@pytest.mark.this_machine('bits')
def test_the_picture_follows_each_letter_and_the_seed(made):
    live,shown = Live(StableDiffusion.from_pretrained(made, device='cpu')),[]
    assert live.image.size==(64,64) and live.status.value.endswith(' ms')
    assert live.controls['prompt'].continuous_update and set(live.controls)=={'prompt','seed'}
    live.sd.tokenizer.words = ['a','cat']
    live.show = lambda latents,status: shown.append(latents)
    with warnings.catch_warnings():
        warnings.simplefilter('error') # An unknown word says nothing while it's typed
        live.controls['prompt'].value = 'a ca'
        live.controls['prompt'].value = 'a cat'
        live.controls['seed'].value = 3
    wanted = [list(live.sd.steps(prompt, seed=seed))[-1].latents for prompt,seed in (('a cat',0),('a cat',3))]
    assert len(shown)==3 and not torch.equal(shown[0], shown[1]) and all(map(torch.equal, shown[1:], wanted))
