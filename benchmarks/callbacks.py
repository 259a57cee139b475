"""What negative prompts do, measured on the embedded model.

    python benchmarks/callbacks.py [--n 40] [--repeats 3] [--save]

Single things are drawn without a background in the prompt ("a cat"), with nothing and with the same thing on a background ("a cat on a blue background")
as the negative prompt, from the same seeds, `repeats` times with other things and seeds. The background is read off the pixels by
`miniai.evaluation.background_color`."""
import warnings
from fastcore.script import call_parse
from statistics import mean, stdev

from miniai.core import *
from miniai.emoji import colors, things, with_article
from miniai.evaluation import background_color, draw
from miniai.pipeline import *
from common import command, machine

warnings.filterwarnings('ignore', message='__array__ implementation')


def shares(sd, negative, n, seed, **kwargs):
    "How often each background is drawn, with things on the background `negative` as negative prompts"
    prompts = [with_article(things[(7*i + seed)%len(things)]) for i in range(n)] # 7 and 120 have no common divisor
    seen,batch = [],20
    for i in range(0, n, batch):
        some = prompts[i:i+batch]
        negatives = [f'{o} on {with_article(negative)} background' if negative else '' for o in some]
        seen += background_color(draw(sd, some, negative_prompt=negatives, seed=seed+i, batch_size=batch, **kwargs)).tolist()
    return [seen.count(i)/n for i in range(len(colors))]


@call_parse
def main(
    n:int=40, # Pictures of each negative prompt and repeat
    repeats:int=3, # With other seeds
    guidance_scale:float=None, # Of the pictures; None is what the model recommends
    num_inference_steps:int=12, # Likewise
    save:bool=False, # Keep the result for the notebook?
):
    "Measure negative prompts"
    sd = StableDiffusion.from_pretrained(embedded_model())
    scale = sd.unet.guidance_scale if guidance_scale is None else guidance_scale
    args = dict(guidance_scale=scale, num_inference_steps=num_inference_steps)
    table,negatives = [],['', *colors]
    for negative in negatives:
        table.append([shares(sd, negative, n, 1000*i, **args) for i in range(repeats)])
        means = (f'{c} {mean(r[i] for r in table[-1]):.1%}' for i,c in enumerate(colors))
        print(f"{negative or 'nothing':24}", *means, flush=True)
    named = [mean(table[i+1][r][i] for i in range(len(colors))) for r in range(repeats)]
    print(f'the background of the negative prompt: {mean(named):.2%}, standard deviation over repeats {stdev(named):.2%}')
    if save: save_measured('callbacks', dict(command=command(), machine=machine(),
        colors=colors, negatives=negatives, shares=table, n=n*repeats, repeats=repeats, **args))
