"""What a reader is told who gives something that cannot be meant: which argument it is, what was given, and what would be right.

One case for each kind of mistake; nothing is computed before it is noticed."""
import numpy as np, pytest, torch
from PIL import Image
from miniai import own
from miniai.core import *
from miniai.callbacks import *
from miniai.editing import *
from miniai.pipeline import *

prompt,picture,nan = 'a red house', Image.new('RGB', (64,64), 'red'), float('nan')

def draw(sd, **kwargs): return sd(**{'prompt':prompt, **kwargs})
def loop(sd, **kwargs):
    given = dict(latents=torch.zeros(1,4,16,16), embeddings=torch.zeros(1,24,128), unet=sd.unet, scheduler=sd.scheduler)
    return next(denoise(**{**given, **kwargs}))
def from_picture(sd, **kwargs): return image_to_image(sd, **{'prompt':prompt, 'image':picture, **kwargs})
def paint(sd, mask): return inpaint(sd, prompt, picture, mask)
def way(sd, **kwargs): return interpolate(sd, **{'prompts':prompt, **kwargs})
def film(sd, frames=(picture,), path='film.gif', **kwargs): return save_animation(list(frames), path, **kwargs)
def calling(sd, callbacks): return StableDiffusion(**vars(sd), callbacks=callbacks).steps(prompt)
def save(sd, path): return save_image(picture, path)
def load(sd, path): return own.StableDiffusion.from_pretrained(path)

mistakes = [
    (draw, dict(prompt=3), TypeError, 'prompt|string|3'),
    (draw, dict(prompt=['a cat',3]), TypeError, 'prompt|string|3'),
    (draw, dict(prompt=[]), ValueError, 'prompt|[]|at least one'),
    (draw, dict(negative_prompt=['a','b']), ValueError, 'negative prompts|2|1|one each'),
    (draw, dict(num_inference_steps=0), ValueError, 'num_inference_steps|0|at least 1'),
    (draw, dict(num_inference_steps=2.5), TypeError, 'num_inference_steps|2.5|whole number'),
    (draw, dict(guidance_scale=nan), ValueError, 'guidance_scale|nan|finite'),
    (draw, dict(guidance_scale='high'), TypeError, 'guidance_scale|high|number'),
    (draw, dict(height=63), ValueError, 'height|63|multiple of 4|64'),
    (draw, dict(width=64.), TypeError, 'width|64.0|whole number'),
    (draw, dict(latents=torch.zeros(1,3,16,16)), ValueError, 'latents|(1, 3, 16, 16)|(1, 4, any, any)'),
    (draw, dict(latents=torch.full((1,4,16,16), nan)), ValueError, 'latents|NaN|finite'),
    (draw, dict(latents=np.zeros((1,4,16,16))), TypeError, 'latents|ndarray|tensor'),
    (draw, dict(seed=[1,2]), ValueError, 'seeds|2|1 image|give 1'),
    (draw, dict(seed=-1), ValueError, 'seed|-1|at least 0'),
    (draw, dict(seed=1, generator=torch.Generator()), ValueError, 'a seed or a generator'),
    (draw, dict(generator=42), TypeError, 'generator|42|seed=42'),
    (draw, dict(generator=[torch.Generator()]*3), ValueError, 'generators|3|1 image|give 1'),
    (draw, dict(start=2), TypeError, 'latents|tensor|None'),
    (loop, dict(start=99), ValueError, 'start|99|at most 49'),
    (loop, dict(start=-1), ValueError, 'start|-1|at least 0'),
    (loop, dict(latents=torch.zeros(1,3,16,16)), ValueError, 'latents|(1, 3, 16, 16)|(1, 4, any, any)'),
    (loop, dict(latents=torch.zeros(2,4,16,16)), ValueError, 'latents|(2, 4, 16, 16)|(1, 4, any, any)'),
    (loop, dict(embeddings=torch.zeros(1,24,3)), ValueError, 'embeddings|(1, 24, 3)|(any, any, 128)'),
    (loop, dict(uncond_embeddings=torch.zeros(1,2,3)), ValueError, 'uncond_embeddings|(1, 2, 3)|(1, 24, 128)'),
    (calling, dict(callbacks=[int]), TypeError, 'callbacks|int|__call__'),
    (from_picture, dict(strength=1.1), ValueError, 'strength|1.1'),
    (from_picture, dict(image='photo.png'), TypeError, 'images|photo.png'),
    (from_picture, dict(image=Image.new('RGB', (62,64))), ValueError, '62×64'),
    (paint, dict(mask=Image.new('L', (32,64), 'white')), ValueError, 'mask|32×64|64×64'),
    (paint, dict(mask=Image.new('L', (64,64))), ValueError, 'mask|black'),
    (way, dict(seeds=[1]), ValueError, 'at least two prompts or two seeds'),
    (way, dict(seeds=[1,2], frames=1), ValueError, 'frames|1|at least 2'),
    (film, dict(path='film.jpg'), ValueError, '.jpg|.webp'),
    (film, dict(fps=0), ValueError, 'fps|0'),
    (save, dict(path='a.xyz'), ValueError, '.xyz|a.xyz|.png'),
    (save, dict(path='a.psd'), ValueError, '.psd|a.psd|.png'),
    (save, dict(path='nowhere/a.png'), FileNotFoundError, 'nowhere|folder'),
    (load, dict(path='./nowhere'), FileNotFoundError, 'nowhere|no folder'),
    (load, dict(path=3), TypeError, 'path|int|folder'),
]

@pytest.mark.parametrize('f,kwargs,error,said', mistakes, ids=[f'{f.__name__}-{",".join(kwargs)}-{i}' for i,(f,kwargs,*_) in enumerate(mistakes)])
def test_a_message_names_the_argument_the_value_and_the_remedy(sd, f, kwargs, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    hook = sd.unet.register_forward_pre_hook(lambda *args: asked.append(1))
    try:
        with pytest.raises(error) as caught: f(sd, **kwargs)
    finally: hook.remove()
    assert [part for part in said.split('|') if part not in str(caught.value)]==[], str(caught.value)
    assert not asked and not list(tmp_path.iterdir())
