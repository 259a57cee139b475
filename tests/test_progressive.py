"Progressive distillation: the algebra of a halving against the library's scheduler, a stopped run goes on, and the command makes students that load everywhere."
import json
import pytest, torch
from diffusers import DDIMScheduler
from hypothesis import given, settings, strategies as st
from students import same_pictures, some_data, tiny_teacher
from miniai import guided, progressive
from miniai.own import StableDiffusion
from miniai.progressive import *
from miniai.scheduler import pred_x0_eps
from miniai.training import run

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tiny_teacher(tmp_path_factory.mktemp('tiny')/'teacher')

@pytest.fixture
def teacher(folder): return StableDiffusion.from_pretrained(folder, device='cpu')

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
    seen = lambda output, z, level: pred_x0_eps(z, output, level[0]**2, kind)[0]
    z_half = ddim_step(seen(first, z, now), z, now, half)
    z_then = ddim_step(seen(second, z_half, half), z_half, half, then)
    v = to_v(target_x0(z, z_then, now, then), z, *now)
    landed = ddim_step(pred_x0_eps(z, v, now[0]**2, 'v_prediction')[0], z, now, then)
    assert (landed-z_then).norm() <= 1e-5*z_then.norm()

@pytest.mark.parametrize('steps', [1, 2, 4])
@torch.no_grad()
def test_the_target_lands_where_two_steps_of_the_library_do(teacher, steps):
    loss = ProgressiveLoss(teacher, new_student(teacher), *some_data(), student_steps=steps)
    t,(z,_) = loss.timesteps(6, torch.Generator().manual_seed(1)),some_data(6)
    cond = loss.conditions(['a cat']*6, None)
    v = to_v(loss.target(z, t, *cond), z, *signal_and_noise(teacher.scheduler, t))
    fine,coarse = (DDIMScheduler.from_config(dict(teacher.scheduler.config), **progressive.trailing, prediction_type=kind) for kind in ('epsilon', 'v_prediction'))
    fine.set_timesteps(2*steps)
    coarse.set_timesteps(steps)
    for i,s in enumerate(t.tolist()):
        landed,first = z[i:i+1],fine.timesteps.tolist().index(s)
        for o in fine.timesteps[first:first+2]: landed = fine.step(teacher.unet(landed, o, cond[0][i:i+1]).sample, o, landed).prev_sample
        mine = coarse.step(v[i:i+1], s, z[i:i+1]).prev_sample
        assert (mine-landed).norm() <= 1e-3*landed.norm()

def test_the_loss_is_that_of_v_and_weights_errors_of_x_by_snr_plus_one(teacher):
    "The paper's second weighting"
    loss = ProgressiveLoss(teacher, new_student(teacher), *some_data(), student_steps=4)
    alpha,sigma = signal_and_noise(teacher.scheduler, step_grid(4)[:-1])
    z,x,y = torch.randn(3, 4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    weighted = ((alpha**2/sigma**2 + 1)*(x-y)**2).mean()
    assert torch.isclose(loss.error(to_v(x, z, alpha, sigma), to_v(y, z, alpha, sigma)), weighted, rtol=1e-3)

@pytest.mark.parametrize('loss', [ProgressiveLoss, CopyLoss])
def test_the_teacher_is_left_as_it_is(teacher, loss, tmp_path):
    before = {k: v.clone() for k,v in [*teacher.unet.state_dict().items(), *teacher.text_encoder.state_dict().items()]}
    student = new_student(teacher)
    run(loss(teacher, student, *some_data(), batch_size=4), 'one', tmp_path, steps=2, lr=1e-2)
    after = {**teacher.unet.state_dict(), **teacher.text_encoder.state_dict()}
    assert all(torch.equal(v, after[k]) for k,v in before.items())
    assert not torch.equal(student.unet.conv_out.weight, teacher.unet.conv_out.weight)

@pytest.mark.this_machine('bits')
def test_a_halving_that_was_stopped_goes_on_where_it_was(teacher, tmp_path):
    def halving(stop_at=None, **how):
        student = new_student(teacher)
        loss = ProgressiveLoss(teacher, student, *some_data(), student_steps=2, batch_size=2)
        calls,forward = [],loss.forward
        def counted(generator):
            calls.append(1)
            if len(calls)==stop_at: raise KeyboardInterrupt
            return forward(generator)
        loss.forward = counted
        run(loss, '4-to-2', how.get('to', tmp_path/'part'), steps=6, lr=1e-2, every=2)
        return student.unet.state_dict(),len(calls)
    whole,_ = halving(to=tmp_path/'whole')
    with pytest.raises(KeyboardInterrupt): halving(stop_at=5)
    resumed,calls = halving()
    assert calls==2 and all(torch.equal(v, resumed[k]) for k,v in whole.items())

@pytest.mark.parametrize('command', [progressive.main, guided.main])
def test_only_powers_of_two_can_be_halved(command, tmp_path):
    with pytest.raises(SystemExit, match='power of two'): command(out=str(tmp_path/'out'), start=12)

def test_the_command_makes_a_student_for_each_number_of_steps(folder, tmp_path):
    out = tmp_path/'students'
    progressive.main(out=str(out), model=str(folder), start=2, copy_steps=2, steps=1, pictures=32)
    assert sorted(p.name for p in out.iterdir())==['1','2']
    assert {p.stem for p in (out/'1'/'training').iterdir()}=={'copy','2-to-1'}
    for n in (1,2):
        assert json.loads((out/f'{n}'/'miniai.json').read_text())['num_inference_steps']==n
        ours = StableDiffusion.from_pretrained(out/f'{n}', device='cpu')
        assert same_pictures(ours, out/f'{n}', num_inference_steps=n, guidance_scale=1.)
