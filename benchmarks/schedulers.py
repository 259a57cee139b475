"""The schedulers on the embedded model: how good pictures are after so many steps, and how long a step takes beside the library's.

    python benchmarks/schedulers.py [--n 32] [--seeds 3] [--save]

Every scheduler draws the same combinations from the same noise, with trailing timesteps, so that all start at the last one. Of the pictures it is
asked whether garment, colour and background are those that the prompt names (see `miniai.evaluation`), and how far they are from the limit: the root
mean square difference of the pixels, from 0 to 1, to the picture that 100 steps of DPM-Solver++ draw from the same noise. (Schedulers that add noise
have no such limit.) Time is processor time without the network, median of rounds in turns. `--save` keeps the results for the notebook."""
import inspect, os, platform, time
from statistics import mean, median, stdev

import diffusers, torch
from fastcore.script import call_parse

from miniai import scheduler as ours
from miniai.core import *
from miniai.evaluation import *
from miniai.fashion import *
from miniai.pipeline import *

names = {'DDPM':'DDPM', 'DDIM':'DDIM', 'PNDM':'PNDM', 'LMS':'LMSDiscrete', 'Euler':'EulerDiscrete',
    'Euler ancestral':'EulerAncestralDiscrete', 'DPM++ 2M':'DPMSolverMultistep'}
random = 'DDPM','Euler ancestral'


def make(library, name, config):
    "A scheduler of ours or the library's for the model's noise"
    own = dict(skip_prk_steps=True) if name=='PNDM' else {}
    return getattr(library, names[name]+'Scheduler').from_config({**config, 'timestep_spacing':'trailing', **own})


def right(x, rows, judge):
    "Fractions of pictures with the right garment, colour, background, and all of them"
    said = torch.stack([judge(x).argmax(1), garment_color(x), background_color(x)], 1)==rows
    return dict(zip(('garment','color','background'), said.float().mean(0).tolist()), right=said.all(1).float().mean().item())


def microseconds(scheduler, steps=50):
    "Processor time of a step, without the network's"
    x = torch.randn(1, 4, 8, 8)
    kwargs = dict(generator=torch.Generator()) if 'generator' in inspect.signature(scheduler.step).parameters else {}
    scheduler.set_timesteps(steps)
    start = time.process_time()
    for t in scheduler.timesteps: scheduler.step(scheduler.scale_model_input(x, t), t, x, **kwargs)
    return (time.process_time()-start)/len(scheduler.timesteps)*1e6


def speed(name, config, rounds=15):
    "Median processor time of a step, ours and the library's, in turns"
    pairs = [[microseconds(make(library, name, config)) for library in (ours,diffusers)] for _ in range(rounds)]
    return [median(o) for o in zip(*pairs)]


def machine():
    "What the figures were measured on"
    try: cpu = next(line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    except (OSError,StopIteration): cpu = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {cpu}, torch {torch.__version__} with {torch.get_num_threads()} thread(s), diffusers {diffusers.__version__}"


@call_parse
def main(
    n:int=32, # Pictures for each seed, number of steps and scheduler
    seeds:int=3, # How often, with other combinations and other noise
    steps:str='2,4,5,8,10,20,40', # Divisors of 1000, where the timesteps of all schedulers agree
    guidance_scale:float=3,
    save:bool=False, # Keep the results in the package?
):
    "Measure pictures against steps, and time"
    torch.set_flush_denormal(True)
    steps,sd,judge = [int(o) for o in steps.split(',')],StableDiffusion.from_pretrained(embedded_model()),load_judge()
    config = sd.scheduler.config
    real = Pictures(*load_fashion_mnist('test', quiet=True))
    features = torch.cat([judge.features(real(combinations(), torch.Generator().manual_seed(i))) for i in range(4)])

    def pictures(name, k, rows, seed):
        sd.scheduler = make(ours, name, config)
        return to_tensor(sd([caption(r) for r in rows], seed=1000*seed, num_inference_steps=k, guidance_scale=guidance_scale, progress=False))

    found = {name: {k: [] for k in steps} for name in names}
    drawn = {name: {k: [] for k in steps} for name in names}
    all_rows = []
    for seed in range(seeds):
        rows = combinations()[torch.randperm(len(combinations()), generator=torch.Generator().manual_seed(seed))[:n]]
        all_rows.append(rows)
        limit = pictures('DPM++ 2M', 100, rows, seed)
        for name in names:
            for k in steps:
                x = pictures(name, k, rows, seed)
                error = (x-limit).square().mean((1,2,3)).sqrt().mean().item()
                found[name][k].append(right(x, rows, judge) | ({} if name in random else {'error':error}))
                drawn[name][k].append(x)
                print(f'seed {seed}, {name}, {k} steps:', {key: round(v, 3) for key,v in found[name][k][-1].items()}, flush=True)

    def table(key):
        rows = {name: [[o[key] for o in found[name][k]] for k in steps] for name in names if key in found[name][steps[0]][0]}
        return {name: dict(steps=steps, mean=[mean(o) for o in row], spread=[stdev(o) if seeds>1 else 0 for o in row]) for name,row in rows.items()}

    frechet = {name: [score(torch.cat(drawn[name][k]), torch.cat(all_rows), judge, features)['frechet'] for k in steps] for name in names}
    times = {name: speed(name, config) for name in names}
    results = {key: table(key) for key in ('right','garment','color','background','error')} | dict(steps=steps, frechet=frechet,
        n=n, seeds=seeds, guidance_scale=guidance_scale, microseconds=times, machine=machine())
    for name in names: print(name, results['right'][name], 'ours, theirs (µs a step):', results['microseconds'][name])
    if save: print(save_measured('schedulers', results))
