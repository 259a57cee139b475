"""How well DDIM inversion brings a photo back, measured on the embedded model.

    python benchmarks/editing.py [--save]

Each of the 83 real held-out pictures goes to its noise and back with its own caption and without guidance. The VAE alone sets the limit."""
import warnings
from fastcore.script import call_parse
from statistics import mean

from miniai.clip import real_pictures
from miniai.core import *
from miniai.editing import *
from miniai.pipeline import *
from miniai.vae import *
from pipeline import machine

warnings.filterwarnings('ignore', message='__array__ implementation')


def there_and_back(sd, photos, captions, steps):
    "PSNR of each photo, drawn from the noise that it was inverted to"
    drawn = sd(captions, latents=invert(sd, photos, captions, num_inference_steps=steps), num_inference_steps=steps, guidance_scale=1, progress=False)
    return [image_psnr(a, b) for a,b in zip(drawn, photos)]


@call_parse
def main(
    save:bool=False, # Keep the result for the notebook?
):
    "Measure inversion"
    sd = StableDiffusion.from_pretrained(embedded_model())
    photos,labels = real_pictures()
    captions = [label['caption'] for label in labels]
    through = lambda im: decode(encode_image(im, sd.vae), sd.vae)[0]
    found = dict(n=len(photos), steps=[5,10,20,50], vae=mean(image_psnr(through(im), im) for im in photos))
    found['psnr'] = [mean(there_and_back(sd, photos, captions, steps)) for steps in found['steps']]
    print(found)
    if save: save_measured('editing', dict(command='python benchmarks/editing.py --save', machine=machine(), **found))
