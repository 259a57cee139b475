"""How well DDIM inversion brings a photo back, measured on the embedded model.

    python benchmarks/editing.py [--save]

A hundred composed pictures of combinations that are kept from all training go to their noise and back, with their captions and without guidance. The VAE
alone sets the limit."""
import torch, warnings
from fastcore.script import call_parse
from statistics import mean

from miniai.core import *
from miniai.editing import *
from miniai.emoji import Pictures, captions, random_rows
from miniai.pipeline import *
from miniai.vae import *
from common import command, machine

warnings.filterwarnings('ignore', message='__array__ implementation')


def there_and_back(sd, photos, texts, steps):
    "PSNR of each photo, drawn from the noise that it was inverted to"
    run,found = dict(num_inference_steps=steps),[]
    for i in range(0, len(photos), 20):
        some,said = photos[i:i+20],texts[i:i+20]
        drawn = sd(said, latents=invert(sd, some, said, **run), guidance_scale=1, progress=False, **run)
        found += [image_psnr(a, b) for a,b in zip(drawn, some)]
    return found


@call_parse
def main(
    n:int=100, # Pictures
    save:bool=False, # Keep the result for the notebook?
):
    "Measure inversion"
    sd = StableDiffusion.from_pretrained(embedded_model())
    generator = torch.Generator().manual_seed(0)
    rows = random_rows(n, generator, held=True)
    photos,texts = [to_image(x) for x in Pictures()(rows, generator)],captions(rows, generator)[0]
    through = lambda im: decode(encode_image(im, sd.vae), sd.vae)[0]
    found = dict(n=len(photos), steps=[5,10,20,50], vae=mean(image_psnr(through(im), im) for im in photos))
    found['psnr'] = [mean(there_and_back(sd, photos, texts, steps)) for steps in found['steps']]
    print(found)
    if save: save_measured('editing', dict(command=command(), machine=machine(), **found))
