"The distilled student: the same in diffusers' pipeline, what it refuses, and the command that makes one."
import subprocess, sys
import numpy as np, pytest, torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import LatentConsistencyModelPipeline
from miniai.core import embedded_model
from miniai.fashion import combinations
from miniai.guided import *
from miniai.pipeline import StableDiffusion
from miniai.progressive import predict, new_student

prompt = 'a photo of a red ankle boot on a blue background'

@pytest.fixture
def teacher(sd): return sd

@pytest.fixture(scope='module')
def student(): return StableDiffusion.from_pretrained(embedded_model('distilled'), device='cpu')

@pytest.mark.parametrize('steps,guidance', [(4, 1), (4, 3), (2, 7.5), (1, 8), (8, 5)])
def test_both_pipelines_draw_the_same_picture(student, steps, guidance):
    theirs = StableDiffusionPipeline.from_pretrained(embedded_model('distilled'), safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    run = dict(num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator().manual_seed(7))
    a = theirs(prompt, **run).images[0]
    b = student(prompt, **dict(run, generator=torch.Generator().manual_seed(7)))[0]
    assert np.abs(np.asarray(a, dtype=int)-np.asarray(b, dtype=int)).max() <= 1

def test_one_evaluation_a_step(student):
    sizes = []
    hook = student.unet.register_forward_pre_hook(lambda _,args: sizes.append(len(args[0])))
    student(prompt, num_inference_steps=4, guidance_scale=5, seed=0)
    hook.remove()
    assert sizes == [1]*4

def test_the_scale_matters(student):
    low,high = (np.asarray(student(prompt, seed=0, num_inference_steps=4, guidance_scale=g)[0], dtype=float) for g in (1, 8))
    assert np.abs(low-high).mean() > 2

def test_it_is_small():
    assert sum(f.stat().st_size for f in embedded_model('distilled').rglob('*') if f.is_file()) <= 12_000_000

@pytest.mark.parametrize('scale', [0, 0.5, 8.5, 100])
def test_scales_it_was_not_taught_are_refused(student, scale):
    with pytest.raises(ValueError, match=f'guidance_scale is {scale};.* from 1 to 8'): student(prompt, guidance_scale=scale)

def test_its_input_is_that_of_diffusers(teacher):
    "Our embedding of the scale, in training, is what diffusers' pipelines feed"
    pipeline = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    student,seen = new_student(teacher, 64),[]
    hook = student.unet.register_forward_pre_hook(lambda _,args,kwargs: seen.append(kwargs['timestep_cond']), with_kwargs=True)
    scales = torch.tensor([1., 2.5, 8.])
    with torch.no_grad(): predict(student.unet, torch.zeros(3, 4, 8, 8), torch.tensor([5, 5, 5]), torch.zeros(3, 5, 128), scales)
    hook.remove()
    assert torch.allclose(seen[0], pipeline(None, scales-1, embedding_dim=64), atol=1e-2)

def test_the_command_makes_a_model_that_goes_on(tmp_path):
    args = ['--out', tmp_path/'out', '--checkpoints', tmp_path/'c', '--data', 'sample', '--start', 2, '--guided-steps', 2, '--halfway-steps', 2, '--steps', 2, '--max-guidance', 4]
    res = subprocess.run([sys.executable, '-m', 'miniai.guided', *map(str, args)], capture_output=True, text=True, cwd=tmp_path)
    assert res.returncode == 0, res.stderr
    sd = StableDiffusion.from_pretrained(tmp_path/'out')
    assert sd('a red bag', seed=0, num_inference_steps=1, guidance_scale=4)[0].size == (64, 64)
    with pytest.raises(ValueError, match='from 1 to 4'): sd('a red bag', guidance_scale=5)
    assert sorted(p.stem for p in (tmp_path/'out/training').iterdir()) == ['2-to-1', 'halfway', 'stage-one']
