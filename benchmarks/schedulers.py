"""The schedulers on the embedded model: how far pictures are from where they're going after so many steps, and how long a step takes beside the library's.

    python benchmarks/schedulers.py [--n 16] [--steps 2,4,5,8,10,20,40]

Every scheduler without fresh noise draws the same prompts from the same noise, with trailing timesteps, so that all start at the last one. The
distance is the root mean square difference of the pixels, from 0 to 1, to the picture that 100 steps of DPM-Solver++ draw from the same noise.
Time is processor time without the network, the median of rounds in turns."""
import time
from statistics import median

import diffusers, torch
from fastcore.script import call_parse

from miniai import scheduler as ours
from miniai.core import *
from miniai.pipeline import *
from miniai.emoji import captions, random_rows

names = {'DDPM':'DDPM', 'DDIM':'DDIM', 'PNDM':'PNDM', 'LMS':'LMSDiscrete', 'Euler':'EulerDiscrete',
    'Euler ancestral':'EulerAncestralDiscrete', 'DPM++ 2M':'DPMSolverMultistep'}
random = 'DDPM','Euler ancestral'


def make(library, name, config):
    "A scheduler of ours or the library's for the model's noise"
    changes = dict(timestep_spacing='trailing') | (dict(skip_prk_steps=True) if name=='PNDM' else {})
    return getattr(library, names[name]+'Scheduler').from_config({**config, **changes})


def microseconds(scheduler, steps=50):
    "Processor time of a step, without the network's"
    x = torch.randn(1, 4, 16, 16)
    scheduler.set_timesteps(steps)
    start = time.process_time()
    for t in scheduler.timesteps: scheduler.step(scheduler.scale_model_input(x, t), t, x)
    return (time.process_time()-start)/len(scheduler.timesteps)*1e6


def speed(name, config, rounds=15):
    "Median processor time of a step, ours and the library's, in turns"
    pairs = [[microseconds(make(library, name, config)) for library in (ours,diffusers)] for _ in range(rounds)]
    return [median(o) for o in zip(*pairs)]


@call_parse
def main(
    n:int=16, # Prompts
    steps:str='2,4,5,8,10,20,40', # Divisors of 1000, where the timesteps of all schedulers agree
    guidance_scale:float=None, # None is what the model recommends
):
    "Measure distances, and time"
    steps,sd = [int(o) for o in steps.split(',')],StableDiffusion.from_pretrained(embedded_model())
    generator = torch.Generator().manual_seed(0)
    config,prompts = sd.scheduler.config,captions(random_rows(n, generator), generator)[0]

    def pictures(name, k):
        sd.scheduler = make(ours, name, config)
        drawn = sd(prompts, seed=0, num_inference_steps=k, guidance_scale=guidance_scale, progress=False)
        return torch.stack([torch.tensor(list(im.getdata())) for im in drawn])/255

    limit = pictures('DPM++ 2M', 100)
    print(f"{'steps':16}", *[f'{k:6}' for k in steps], '   µs a step: ours, theirs')
    for name in names:
        far = ['      ' if name in random else f'{(pictures(name, k)-limit).square().mean((1,2)).sqrt().mean().item():6.3f}' for k in steps]
        print(f'{name:16}', *far, '  ', *[f'{t:6.0f}' for t in speed(name, config)], flush=True)
