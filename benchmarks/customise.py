"""What negative prompts do, and how well DDIM inversion brings a photo back, measured on the embedded model.

    python benchmarks/customise.py [--n 40] [--repeats 3] [--save]

Negative prompts: bags, dresses and coats are drawn without a colour in the prompt, with nothing and with "a photo of a {colour} bag" as the negative prompt, from the same
seeds, `repeats` times with other seeds. The colour is read off the pixels by `miniai.evaluation.garment_color`.
Inversion: each of the 83 real held-out pictures goes to its noise and back with its own caption and without guidance. The VAE alone sets the limit."""
import warnings
from fastcore.script import call_parse
from statistics import mean, stdev

from miniai.clip import real_pictures
from miniai.core import *
from miniai.customise import *
from miniai.evaluation import draw, garment_color
from miniai.fashion import colors, with_article
from miniai.pipeline import *
from miniai.vae import *
from pipeline import machine

warnings.filterwarnings('ignore', message='__array__ implementation')


def shares(sd, negative_prompt, n, seed, **kwargs):
    "How often each colour is drawn"
    prompts = [f"a photo of a {('bag','dress','coat')[i%3]}" for i in range(n)]
    seen = garment_color(draw(sd, prompts, negative_prompt=negative_prompt, seed=seed, **kwargs))
    return [(seen==i).float().mean().item() for i in range(len(colors))]


def there_and_back(sd, photos, captions, steps):
    "PSNR of each photo, drawn from the noise that it was inverted to"
    drawn = sd(captions, latents=invert(sd, photos, captions, num_inference_steps=steps), num_inference_steps=steps, guidance_scale=1, progress=False)
    return [image_psnr(a, b) for a,b in zip(drawn, photos)]


@call_parse
def main(
    n:int=40, # Pictures of each negative prompt and repeat
    repeats:int=3, # With other seeds
    guidance_scale:float=3., # Of the pictures with negative prompts
    num_inference_steps:int=12, # Likewise
    save:bool=False, # Keep the result for the notebook?
):
    "Measure negative prompts and inversion"
    sd = StableDiffusion.from_pretrained(embedded_model())
    args = dict(guidance_scale=guidance_scale, num_inference_steps=num_inference_steps)
    table,negatives = [],['', *(f"a photo of {with_article(f'{c} bag')}" for c in colors)]
    for negative in negatives:
        table.append([shares(sd, negative, n, 1000*i, **args) for i in range(repeats)])
        print(f"{negative or 'nothing':24}", ' '.join(f'{c} {mean(r[i] for r in table[-1]):.1%}' for i,c in enumerate(colors)), flush=True)
    named = [mean(table[i+1][r][i] for i in range(len(colors))) for r in range(repeats)]
    print(f'the colour that is the negative prompt: {mean(named):.2%}, standard deviation over repeats {stdev(named):.2%}')
    photos,labels = real_pictures()
    captions = [label['caption'] for label in labels]
    through = lambda im: decode(encode_image(im, sd.vae), sd.vae)[0]
    inversion = dict(n=len(photos), steps=[5,10,20,50], vae=mean(image_psnr(through(im), im) for im in photos))
    inversion['psnr'] = [mean(there_and_back(sd, photos, captions, steps)) for steps in inversion['steps']]
    print(inversion)
    if save: save_measured('customise', dict(command='python benchmarks/customise.py --save', machine=machine(), negative=dict(colors=colors, negatives=negatives, shares=table, n=n*repeats, repeats=repeats, **args), inversion=inversion))
