"""What guidance does to a model's pictures: its scale, its rescaling, and guidance in some of the steps only.

    python benchmarks/guidance.py [--n 128] [--seeds 3] [--steps 15] [--save]

For every setting the same prompts and the same noise, and `n` pictures for each seed: half of them of one tinted thing, half of two things. A judge names the things,
the pixels the colours; the Fréchet distance is to composed pictures of the same kinds in the judge's features (see `13_evaluation`). It depends on how many pictures
there are, so the distance of equally many composed ones is measured as well. With --save, the results are kept for the notebook on guidance."""
import time

import torch
from common import command, machine
from fastcore.script import call_parse

from miniai.core import *
from miniai.emoji import *
from miniai.evaluation import *
from miniai.guidance import *
from miniai.pipeline import *

scale = 4
settings = {
    **{f'{s:g}': dict(guidance_scale=s) for s in (0,1,2,3,4,6,8,16)},
    **{f'{s:g}, φ = 0.7': dict(guidance_scale=s, rescale=.7) for s in (4,16)},
    'timesteps 667–999': dict(guidance_scale=guidance_interval(scale, 666, 999)),
    'timesteps 334–666': dict(guidance_scale=guidance_interval(scale, 333, 666)),
    'timesteps 0–333': dict(guidance_scale=guidance_interval(scale, -1, 333)),
    'rising from 0 to 8': dict(guidance_scale=lambda t: 8*(1-t/1000))}


@torch.no_grad()
def draw_latents(sd, latents, embeddings, uncond, steps, guidance_scale, rescale=0.):
    "Latents of one picture for each of `embeddings`; the scale is a number or a function of the timestep"
    sd.scheduler.set_timesteps(steps)
    for t in sd.scheduler.timesteps:
        s = guidance_scale(t.item()) if callable(guidance_scale) else guidance_scale
        latents = sd.scheduler.step(guided_noise(sd.unet, latents, t, embeddings, uncond, s, rescale=rescale), t, latents).prev_sample
    return latents


def asked(n, seeds):
    "Rows `(n,6)` for each seed, the first half of one tinted thing, the second of two things"
    half = n//2
    kinds = [some_rows(kind, half*seeds).split(half) for kind in ('tinted','two')]
    return [torch.cat(pair) for pair in zip(*kinds)]


@torch.no_grad()
def score(x, rows, judge, features):
    "Shares of right things, pairs, tints and backgrounds, and the distance to pictures with `features`"
    one = rows[:,2]==nothing
    seen = describe(judge, x, ~one)
    right = marks(rows, seen)
    share = lambda what,where: what[where].float().mean().item()
    return dict(thing=share(right['things'], one), pair=share(right['things'], ~one), relation=share(right['relation'], ~one),
        color=share(seen[:,1]==rows[:,1], one), background=share(right['background'], one|~one), frechet=frechet_distance(judge.features(x), features))


@torch.no_grad()
def measure_once(sd, rows, seed, steps, judge, features, **setting):
    "Scores of the pictures of `rows`, the share of pixels beyond black or white, and the spread of the latents"
    shape,latents = (1, sd.unet.config.in_channels, sd.unet.config.sample_size, sd.unet.config.sample_size),[]
    for i,few in zip(range(0, len(rows), 64), rows.split(64)):
        noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(1000*seed+i+j)) for j in range(len(few))])
        embeddings = encode_text([sentence(row) for row in few.tolist()], sd.tokenizer, sd.text_encoder)
        uncond = encode_text('', sd.tokenizer, sd.text_encoder).expand_as(embeddings)
        latents.append(draw_latents(sd, noise, embeddings, uncond, steps, **setting))
    x = torch.cat([sd.vae.decode(o/sd.vae.config.scaling_factor).sample/2 + .5 for o in latents])
    beyond = ((x<-.02)|(x>1.02)).float().mean().item()
    return dict(score(x.clamp(0,1), rows, judge, features), beyond=beyond, std=torch.cat(latents).std().item())


@call_parse
def main(
    n:int=128, # Pictures for each setting and seed
    seeds:int=3, # How many times
    steps:int=15, # Of DDIM
    save:bool=False, # Keep the results for the notebook?
):
    "Measure what guidance does"
    start,judge,real = time.process_time(),load_judge(),Pictures()
    sd = StableDiffusion.from_pretrained(embedded_model(), device='cpu')
    seed = lambda i: torch.Generator().manual_seed(i)
    results = {name:[] for name in settings}
    chosen = asked(n, seeds)
    with torch.no_grad(): features = torch.cat([judge.features(real(rows, seed(i))) for i,rows in enumerate(asked(500, 4))])
    baseline = [score(real(rows, seed(10+i)), rows, judge, features) for i,rows in enumerate(chosen)]
    print('real', baseline, flush=True)
    for name,setting in settings.items():
        for i,rows in enumerate(chosen): results[name].append(measure_once(sd, rows, i, steps, judge, features, **setting))
        print(name, *({k:round(v,3) for k,v in r.items()} for r in results[name]), flush=True)
    if save: save_measured('guidance', dict(command=command(), machine=machine(), n=n, seeds=seeds, num_inference_steps=steps,
        processor_seconds=round(time.process_time()-start), real=baseline, results=results))
