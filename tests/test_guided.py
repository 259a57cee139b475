"The guided student: what it learns, that it asks once, the same in diffusers' pipeline, which scales it refuses, and the command that makes one."
import pytest, torch
from diffusers import DDIMScheduler
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import LatentConsistencyModelPipeline
from students import same_pictures, some_data, tiny_teacher
from miniai import guided
from miniai.core import embedded_model
from miniai.guided import *
from miniai.own import StableDiffusion
from miniai.pipeline import Step, guidance_features, step_noise
from miniai.progressive import signal_and_noise, to_v, trailing

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tiny_teacher(tmp_path_factory.mktemp('tiny')/'teacher')

@pytest.fixture
def teacher(folder): return StableDiffusion.from_pretrained(folder, device='cpu')

def listening(teacher):
    "A student that heeds the scale, though it wasn't taught to"
    student = told_student(teacher)
    torch.nn.init.normal_(student.unet.time_embedding.cond_proj.weight, std=.1, generator=torch.Generator().manual_seed(0))
    return student

@pytest.fixture(scope='module')
def saved(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('student')
    save_told_student(listening(StableDiffusion.from_pretrained(folder, device='cpu')), 4, folder, out)
    return out

@pytest.fixture
def student(saved): return StableDiffusion.from_pretrained(saved, device='cpu')

@torch.no_grad()
def test_stage_one_sees_what_the_papers_guidance_makes_of_two_evaluations(teacher):
    "(1+w) with the prompt, less w without; w is the guidance scale less one"
    loss = GuidedLoss(teacher, told_student(teacher), *some_data())
    z,t,w = some_data(4)[0],torch.tensor([999,600,300,20]),torch.tensor([0.,1.,4.,7.])
    embeddings,_ = loss.conditions(['a cat']*4, torch.Generator())
    empty,_ = loss.conditions(['']*4, torch.Generator())
    prompted,alone = (teacher.unet(z, t, o).sample for o in (embeddings,empty))
    alpha,sigma = signal_and_noise(teacher.scheduler, t)
    x0 = (z - sigma*((1+w.view(-1,1,1,1))*prompted - w.view(-1,1,1,1)*alone))/alpha
    assert torch.allclose(loss.target(z, t, embeddings, w+1), x0, rtol=1e-3, atol=1e-4*x0.abs().max().item())

@torch.no_grad()
def test_stage_two_halves_at_a_scale_of_each_latents_own(teacher):
    first = listening(teacher)
    loss = GuidedProgressiveLoss(first, told_student(first), *some_data(), student_steps=2)
    z,t,scales = some_data(3)[0],torch.tensor([999,499,499]),torch.tensor([1.,3.,8.])
    embeddings,_ = loss.conditions(['a cat']*3, torch.Generator())
    v = to_v(loss.target(z, t, embeddings, scales), z, *signal_and_noise(teacher.scheduler, t))
    for i,s in enumerate(t.tolist()):
        landed,fine = z[i:i+1],DDIMScheduler.from_config(dict(first.scheduler.config), **trailing)
        fine.set_timesteps(4)
        for o in (s, s-250):
            said = predict(first.unet, landed, torch.tensor([o]), embeddings[i:i+1], scales[i:i+1])
            landed = fine.step(said, o, landed).prev_sample
        fine.set_timesteps(2)
        assert (fine.step(v[i:i+1], s, z[i:i+1]).prev_sample-landed).norm() <= 1e-3*landed.norm()

def test_scales_are_drawn_between_one_and_the_largest(teacher):
    loss = GuidedLoss(teacher, told_student(teacher), *some_data())
    _,scales = loss.conditions(['a cat']*500, torch.Generator().manual_seed(0))
    assert 1<=scales.min()<1.5 and 7.5<scales.max()<=8

@pytest.mark.parametrize('steps,guidance', [(4, 1), (2, 7.5), (1, 8)])
def test_both_pipelines_draw_the_same_picture(student, saved, steps, guidance):
    assert same_pictures(student, saved, num_inference_steps=steps, guidance_scale=guidance)

def test_one_evaluation_a_step(student):
    sizes = []
    hook = student.unet.register_forward_pre_hook(lambda _,args: sizes.append(len(args[0])))
    student('a cat', num_inference_steps=4, guidance_scale=5, seed=0)
    hook.remove()
    assert sizes == [1]*4

def test_the_scale_matters(student):
    x,embeddings = torch.randn(student.latent_shape(1), generator=torch.Generator().manual_seed(0)),student.conditions(['a cat'])[0]
    low,high = (step_noise(student.unet, x, Step(0, torch.tensor(500), x, None, embeddings=embeddings, guidance_scale=g)) for g in (1., 8.))
    assert (low-high).abs().max()>1e-3*low.abs().max()

@pytest.mark.parametrize('scale', [0, 0.5, 8.5, 100])
def test_scales_it_was_not_taught_are_refused(student, scale):
    with pytest.raises(ValueError, match=f'guidance_scale is {scale};.* from 1 to 8'): student('a cat', guidance_scale=scale)

def test_each_image_can_have_its_own_scale(student):
    x,embeddings = torch.randn(student.latent_shape(2)),student.conditions(['a cat']*2)[0]
    ask = lambda scale: step_noise(student.unet, x, Step(0, torch.tensor(500), x, None, embeddings=embeddings, guidance_scale=scale))
    for i,scale in enumerate([2.,7.]): assert torch.allclose(ask(torch.tensor([2.,7.]))[i], ask(scale)[i], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match='from 1 to 8'): ask(torch.tensor([2.,9.]))

def test_its_input_is_that_of_diffusers():
    "Our features of the scale, in training, are what diffusers' pipelines feed"
    scales = torch.tensor([1., 2.5, 8.])
    assert torch.allclose(guidance_features(scales), LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scales-1, embedding_dim=64), atol=1e-2)

def test_the_distilled_model_is_small():
    assert sum(f.stat().st_size for f in embedded_model('distilled').rglob('*') if f.is_file()) <= 12_000_000

def test_the_command_makes_students_that_know_their_scales(folder, tmp_path):
    out = tmp_path/'students'
    guided.main(out=str(out), model=str(folder), start=2, guided_steps=2, steps=1, pictures=32)
    assert {p.stem for p in (out/'1'/'training').iterdir()}=={'stage-one','2-to-1'}
    sd = StableDiffusion.from_pretrained(out/'1', device='cpu')
    assert sd('a cat', seed=0, num_inference_steps=1, guidance_scale=4)[0].size == (64, 64)
    with pytest.raises(ValueError, match='from 1 to 8'): sd('a cat', guidance_scale=9)
