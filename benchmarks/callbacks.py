"""What negative prompts do, measured on the embedded model.

    python benchmarks/callbacks.py [--n 40] [--repeats 3] [--save]

Bags, dresses and coats are drawn without a colour in the prompt, with nothing and with "a photo of a {colour} bag" as the negative prompt, from the same
seeds, `repeats` times with other seeds. The colour is read off the pixels by `miniai.evaluation.garment_color`."""
import warnings
from fastcore.script import call_parse
from statistics import mean, stdev

from miniai.core import *
from miniai.evaluation import draw, garment_color
from miniai.fashion import colors, with_article
from miniai.pipeline import *
from pipeline import machine

warnings.filterwarnings('ignore', message='__array__ implementation')


def shares(sd, negative_prompt, n, seed, **kwargs):
    "How often each colour is drawn"
    prompts = [f"a photo of a {('bag','dress','coat')[i%3]}" for i in range(n)]
    seen = garment_color(draw(sd, prompts, negative_prompt=negative_prompt, seed=seed, **kwargs))
    return [(seen==i).float().mean().item() for i in range(len(colors))]


@call_parse
def main(
    n:int=40, # Pictures of each negative prompt and repeat
    repeats:int=3, # With other seeds
    guidance_scale:float=3., # Of the pictures
    num_inference_steps:int=12, # Likewise
    save:bool=False, # Keep the result for the notebook?
):
    "Measure negative prompts"
    sd = StableDiffusion.from_pretrained(embedded_model())
    args = dict(guidance_scale=guidance_scale, num_inference_steps=num_inference_steps)
    table,negatives = [],['', *(f"a photo of {with_article(f'{c} bag')}" for c in colors)]
    for negative in negatives:
        table.append([shares(sd, negative, n, 1000*i, **args) for i in range(repeats)])
        means = (f'{c} {mean(r[i] for r in table[-1]):.1%}' for i,c in enumerate(colors))
        print(f"{negative or 'nothing':24}", *means, flush=True)
    named = [mean(table[i+1][r][i] for i in range(len(colors))) for r in range(repeats)]
    print(f'the colour that is the negative prompt: {mean(named):.2%}, standard deviation over repeats {stdev(named):.2%}')
    if save: save_measured('callbacks', dict(command='python benchmarks/callbacks.py --save', machine=machine(),
        colors=colors, negatives=negatives, shares=table, n=n*repeats, repeats=repeats, **args))
