"""The distilled student beside its teacher: what the pictures show, and how long one takes.

    python benchmarks/distillation.py [--part speed|quality|schedulers|all] [--match 'student*'] [--seeds 3] [--again] [--save]

Speed: one picture at a time, from the prompt to a PIL image, guided, teacher and student in turn. Quality: 290 pictures for each seed, every
other combination of garment, colour and background, scored as in `13_evaluation`; the Fréchet distance of all seeds' pictures together, too. Schedulers: the same for the teacher without guidance, with other schedulers.
With --save the results go to miniai/measured/distillation.json, from where `14_progressive_distillation` and `15_guided_distillation` show them; rows that are there already are measured
only --again, so that an interrupted run goes on where it stopped. All of it takes about an hour and a half on one thread."""
import statistics, time
from fnmatch import fnmatch
import diffusers, torch
from fastcore.script import call_parse
from miniai.core import embedded_model, measured, save_measured
from miniai.evaluation import draw, frechet_distance, load_judge, score
from miniai.fashion import *
from miniai.pipeline import StableDiffusion
from pipeline import machine

folders = dict(teacher='fashion', student='distilled')
columns = ('model','scheduler','guidance','steps')
runs = dict(
    speed=[('teacher','DDIM',5.,50), *(('student','DDIM',5.,n) for n in (4,2,1))],
    quality=[(model,'DDIM',g,n) for g in (3.,5.,7.5,1.) for model,steps in (('student',(8,4,2,1)), ('teacher',(50,8,4,2,1))) for n in steps],
    schedulers=[('teacher',s,1.,n) for n in (8,4,2,1) for s in ('DDIM trailing','DPMSolverMultistep')])

def load(model, scheduler):
    "An embedded model, with a scheduler of diffusers'; DDIM is the one of its folder"
    sd = StableDiffusion.from_pretrained(embedded_model(folders[model]))
    if scheduler=='DDIM trailing': sd.scheduler = diffusers.DDIMScheduler.from_config(sd.scheduler.config, timestep_spacing='trailing', set_alpha_to_one=True)
    elif scheduler!='DDIM': sd.scheduler = getattr(diffusers, f'{scheduler}Scheduler').from_config(sd.scheduler.config)
    return sd

def one_picture(sd, guidance, steps):
    "Seconds that one picture takes"
    start = time.perf_counter()
    sd('a photo of a red ankle boot on a blue background', seed=0, guidance_scale=guidance, num_inference_steps=steps, progress=False)
    return time.perf_counter()-start

def speed(rounds=15):
    "Seconds of every run of `speed`, taken in turn, and how many times faster than the first it is"
    parts = [(load(model, scheduler), guidance, steps) for model,scheduler,guidance,steps in runs['speed']]
    for part in parts: one_picture(*part)
    times = [[one_picture(*part) for part in parts] for _ in range(rounds)]
    median = lambda values: round(statistics.median(values), 4)
    rows = [dict(zip(columns, run), seconds=median(o[i] for o in times), times_faster=median(o[0]/o[i] for o in times)) for i,run in enumerate(runs['speed'])]
    return dict(rows=rows, rounds=rounds, machine=machine())

def quality(sd, guidance, steps, seeds, judge, features):
    "Scores for each seed, with the seconds that a picture took in batches of 20, and the Fréchet distance of all the pictures together"
    marks,seen = [],[]
    for seed in range(seeds):
        rows,start = combinations()[seed%2::2],time.perf_counter()
        x = draw(sd, [caption(r) for r in rows], seed=seed*len(rows), guidance_scale=guidance, num_inference_steps=steps)
        seconds = (time.perf_counter()-start)/len(rows)
        marks.append(dict({k:round(v, 4) for k,v in score(x, rows, judge, features).items()}, seconds=round(seconds, 5)))
        seen.append(judge.features(x))
    return dict(seeds=marks, pictures=len(torch.cat(seen)), frechet=round(frechet_distance(torch.cat(seen), features), 2))

def real_features(judge):
    "The judge's features of real pictures of the test split"
    real = Pictures(*load_fashion_mnist('test'))
    return torch.cat([judge.features(real(combinations(), torch.Generator().manual_seed(i))) for i in range(4)])

@call_parse
def main(
    part:str='all', # speed, quality, schedulers or all
    match:str='*', # Only rows like this, for example 'student * 5.0 *'
    seeds:int=3, # How many times 290 pictures
    again:bool=False, # Measure what was measured before, too?
    save:bool=False, # Keep the results?
):
    "Measure the distilled student and its teacher"
    torch.set_flush_denormal(True)
    try: kept = measured('distillation')
    except FileNotFoundError: kept = dict(quality=[])
    if part in ('speed','all'):
        kept['speed'] = speed()
        for row in kept['speed']['rows']: print(*row.values(), flush=True)
        if save: save_measured('distillation', kept)
    judge = load_judge()
    features = real_features(judge)
    for run in [run for p in ('quality','schedulers') if part in (p,'all') for run in runs[p] if fnmatch(' '.join(map(str, run)), match)]:
        which = dict(zip(columns, run))
        before = [row for row in kept['quality'] if which.items()<=row.items()]
        if before and not again: continue
        found = quality(load(*run[:2]), *run[2:], seeds, judge, features)
        kept['quality'] = [row for row in kept['quality'] if row not in before] + [dict(which, **found)]
        print(*run, *(f"{key} {statistics.mean(m[key] for m in found['seeds']):.3f}" for key in found['seeds'][0]), f"all {found['frechet']}", flush=True)
        if save: save_measured('distillation', kept)
