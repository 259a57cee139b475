"Progressive distillation: the algebra of a halving, the grids, and what is refused before any training."
import subprocess, sys
import pytest, torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from hypothesis import given, settings, strategies as st
from miniai.core import embedded_model
from miniai.fashion import combinations, sample_dir
from miniai.pipeline import StableDiffusion
from miniai.progressive import *

@pytest.fixture
def teacher(sd): return sd

@pytest.fixture(scope='module')
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(100, 4, 8, 8, generator=generator),combinations()[:100]

@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 8, 16, 25, 64, 100, 1000])
def test_grid_is_trailing_spacing(n):
    scheduler = DDIMScheduler(timestep_spacing='trailing')
    scheduler.set_timesteps(n)
    assert step_grid(n).tolist() == [*scheduler.timesteps.tolist(), -1]

@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.sampled_from([2, 4, 8, 16, 32, 64]), st.sampled_from(['epsilon', 'v_prediction']), st.data())
def test_a_perfect_student_lands_where_two_steps_land(seed, teacher_steps, kind, choice):
    generator,scheduler = torch.Generator().manual_seed(seed),DDIMScheduler(beta_start=0.00085, beta_end=choice.draw(st.sampled_from([0.012, 0.02])), beta_schedule='scaled_linear')
    grid = step_grid(teacher_steps)
    start = 2*choice.draw(st.integers(0, teacher_steps//2-1))
    now,half,then = ([o.double() for o in signal_and_noise(scheduler, grid[start+i:start+i+1])] for i in range(3))
    z,first,second = torch.randn(3, 1, 4, 8, 8, generator=generator, dtype=torch.float64)
    z_half = ddim_step(to_x(first, z, *now, kind), z, now, half)
    z_then = ddim_step(to_x(second, z_half, *half, kind), z_half, half, then)
    v = to_v(fold(z, z_then, now, then), z, *now)
    landed = ddim_step(to_x(v, z, *now, 'v_prediction'), z, now, then)
    assert (landed-z_then).norm() <= 1e-5*z_then.norm()

def test_at_kept_timesteps_the_target_is_what_the_teacher_sees(teacher, data):
    loss = ProgressiveLoss(teacher, new_student(teacher), *data, teacher_steps=4, serves=8)
    assert set(loss.starts.tolist()) == {999, 499} and set(loss.others.tolist()) == {874, 749, 624, 374, 249, 124}
    z,t,embeddings = data[0][:8],torch.tensor([999, 499]*3 + [874, 249]),torch.zeros(8, 5, 128)
    with torch.no_grad(): target = loss.target(z, t, embeddings, torch.ones(8))
    with torch.no_grad(): seen = to_x(teacher.unet(z, t, embeddings).sample, z, *signal_and_noise(teacher.scheduler, t), 'epsilon')
    off = lambda part: (target[part]-seen[part]).abs().max()/seen[part].abs().max()
    assert off(slice(6, None))<1e-3<off(slice(6))

def test_the_teacher_is_left_as_it_is(teacher, data, tmp_path):
    before = {k: v.clone() for k, v in teacher.unet.state_dict().items()}
    student = progressive_distillation(teacher, *data, teacher_steps=4, checkpoints=tmp_path, steps=2, batch_size=4)
    assert all(torch.equal(v, teacher.unet.state_dict()[k]) for k, v in before.items())
    assert any(not torch.equal(v, student.unet.state_dict()[k]) for k, v in before.items())
    assert student.scheduler.config.prediction_type == 'v_prediction' and student.scheduler.config.timestep_spacing == 'trailing'

@pytest.mark.parametrize('teacher_steps', [0, 1, 7])
def test_odd_numbers_of_steps_are_refused(teacher, data, teacher_steps):
    with pytest.raises(ValueError, match='even number of steps'): ProgressiveLoss(teacher, new_student(teacher), *data, teacher_steps=teacher_steps)

@pytest.mark.parametrize('start,stop', [(12, 2), (8, 3), (4, 8), (8, 0), (4, 4)])
def test_halvings_that_lead_nowhere_are_refused(start, stop):
    with pytest.raises(ValueError, match='halving does not lead to'): halvings(start, stop)

def changed(sd, unet=None, scheduler=None): return StableDiffusion(sd.tokenizer, sd.text_encoder, unet or sd.unet, scheduler or sd.scheduler, sd.vae)

def test_students_that_do_not_fit_are_refused(teacher):
    student = new_student(teacher)
    narrow = UNet2DConditionModel.from_config(dict(teacher.unet.config, cross_attention_dim=64))
    with pytest.raises(ValueError, match='cross_attention_dim: the teacher has 128, the student 64'): check_student(teacher, changed(student, unet=narrow))
    other = DDIMScheduler.from_config(student.scheduler.config, beta_end=0.03)
    with pytest.raises(ValueError, match='different noise schedules'): check_student(teacher, changed(student, scheduler=other))
    with pytest.raises(ValueError, match="has to predict 'v_prediction'"): check_student(teacher, changed(student, scheduler=teacher.scheduler))
    sample = DDIMScheduler.from_config(teacher.scheduler.config, prediction_type='sample')
    with pytest.raises(ValueError, match="the teacher predicts 'sample'"): check_student(changed(teacher, scheduler=sample), student)
    half = StableDiffusion.from_pretrained(embedded_model(), device='cpu', dtype=torch.float16)
    with pytest.raises(ValueError, match='dtype=torch.float32'): check_student(half, new_student(half))
    with pytest.raises(ValueError, match='guidance input'): check_student(new_student(teacher, 32), new_student(teacher, 64))

def test_the_command_makes_a_model(tmp_path):
    args = ['--out', tmp_path/'out', '--checkpoints', tmp_path/'c', '--data', 'sample', '--start', 2, '--steps', 2]
    res = subprocess.run([sys.executable, '-m', 'miniai.progressive', *map(str, args)], capture_output=True, text=True, cwd=tmp_path)
    assert res.returncode == 0, res.stderr
    sd = StableDiffusion.from_pretrained(tmp_path/'out')
    assert sd('a red bag', seed=0, num_inference_steps=1, guidance_scale=1)[0].size == (64, 64)

def test_the_command_refuses_before_it_works(tmp_path):
    res = subprocess.run([sys.executable, '-m', 'miniai.progressive', '--start', '6', '--stop', '1'], capture_output=True, text=True, cwd=tmp_path)
    assert res.returncode and 'halving does not lead to 1 steps' in res.stderr and not list(tmp_path.iterdir())
