"The notebooks on the pipeline with another model than the embedded one: Stable Diffusion 1.5's architecture of random weights, tiny or eight times narrower; and the pipeline once in full width."
from pathlib import Path
import nbformat, numpy as np, pytest, torch
from diffusers import StableDiffusionPipeline
from miniai.pipeline import StableDiffusion
from models import random_folder, sd15
from running import run_notebook

nbs = Path(__file__).parent.parent/'nbs'
notebooks = ['01_pipeline','02_tokenizer','03_clip','04_unet','05_guidance','06_scheduler','07_vae','09_callbacks','10_editing']

@pytest.fixture(scope='module')
def narrow(tmp_path_factory): return random_folder(tmp_path_factory.mktemp('narrow'), *sd15(width=8))

def run(name, model, tmp_path, command=None): run_notebook(nbformat.read(nbs/f'{name}.ipynb', as_version=4), tmp_path, command, MINIAI_MODEL=str(model))

def test_the_first_runs_on_another_model(folders, warm, tmp_path): run('01_pipeline', folders['sd15'], tmp_path, warm)

@pytest.mark.slow
@pytest.mark.parametrize('name', notebooks)
def test_it_runs_on_another_model(narrow, name, tmp_path): run(name, narrow, tmp_path)

@pytest.mark.slow
def test_full_width(tmp_path, monkeypatch):
    "The library's picture of 512 by 512 pixels, with the 1.07 thousand million parameters of Stable Diffusion 1.5"
    monkeypatch.setenv('MINIAI_MODEL', str(random_folder(tmp_path, *sd15())))
    sd = StableDiffusion.from_pretrained(device='cpu')
    assert sum(p.numel() for part in (sd.text_encoder,sd.unet,sd.vae) for p in part.parameters()) > 1e9
    run = dict(num_inference_steps=1, guidance_scale=3, negative_prompt='a cat')
    [image] = sd('a red house', seed=0, **run)
    library = StableDiffusionPipeline(**vars(sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    theirs = library('a red house', generator=torch.Generator().manual_seed(0), **run).images[0]
    assert image.size == (512,512)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(theirs)).max() <= 1
