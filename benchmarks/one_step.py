"""One step beside the teacher's 50 guided steps: the same prompts from the same noise, scored as in `13_evaluation`.

    python benchmarks/one_step.py [--n 125] [--seeds 3] [--begin one_step-checkpoints/start] [--save]

Quality: `n` prompts of each of the four kinds, with `seeds` pictures each. Each difference is the mean over prompts of the mean over a prompt's seeds, with 1.96 standard
errors of it on either side; the ratios of Fréchet distance and diversity have intervals from drawing prompts again (bootstrap). Diversity: the mean distance of 16 pictures
of a prompt in the judge's features. Time: one picture at a time, from the prompt to a PIL image, both models in turn, after a first picture that isn't counted.
Pictures are kept in --pictures, so an interrupted run goes on where it stopped, and the teacher's are drawn once; delete a model's folder there when its weights have changed.
With --save the results go to miniai/measured/one_step.json, from where `16_one_step` shows them. The teacher's pictures take about 50 minutes on one core."""
import time
from pathlib import Path
import torch
from fastcore.script import call_parse
from safetensors.torch import load_file, save_file
from miniai.core import embedded_model, progress_bar, save_measured
from miniai.emoji import Pictures, nothing
from miniai.evaluation import describe, draw_rows, frechet_distance, kinds, load_judge, marks, some_rows
from miniai.own import StableDiffusion
from pipeline import machine

questions = { # What must be right, of which kinds of rows
    'things': ('things', ('one','tinted','two','both')), 'colours': ('colors', ('tinted','both')), 'relation': ('relation', ('two','both')),
    'background': ('background', ('one','tinted','two','both')), 'everything': ('everything', ('one','tinted','two','both'))}

def drawn(folder, name, sd, rows, seed, **kwargs):
    "Pictures of rows (n,3,64,64), drawn once; kept a hundred at a time"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for i in range(0, len(rows), 100):
        file = folder/f'{name}-{seed}-{len(rows)}-{i}.safetensors'
        if not file.exists():
            x = draw_rows(sd, rows[i:i+100], seed + i, **kwargs)
            save_file(dict(x=(x*255).round().byte()), file)
        parts.append(load_file(file)['x'].float()/255)
    return torch.cat(parts)

def estimate(values):
    "The mean of a tensor (prompts,), and 1.96 standard errors on either side"
    mean,half = values.mean().item(),1.96*values.std().item()/len(values)**.5
    return dict(value=mean, low=mean-half, high=mean+half)

def again(ratio, n, value, times):
    "`value`, and the middle 95% of what `ratio` gives for prompts that are drawn again"
    gen = torch.Generator().manual_seed(0)
    found = torch.tensor([ratio(torch.randint(n, (n,), generator=gen)) for _ in range(times)])
    low,high = found.quantile(torch.tensor([.025,.975])).tolist()
    return dict(value=value, low=low, high=high)

def look(judge, pictures, asked):
    "By kind: marks (prompts, seeds), and features (prompts, seeds, 192)"
    right,features = {},{}
    for kind,xs in pictures.items():
        seen = [marks(asked[kind], describe(judge, x, asked[kind][:,2]<nothing)) for x in xs]
        right[kind] = {name: torch.stack([o[name].float() for o in seen], 1) for name in seen[0]}
        features[kind] = torch.stack([judge.features(x) for x in xs], 1)
    return right,features

def quality(judge, sds, n, seeds, folder, times):
    "Shares of the teacher, differences to it, and the ratio of Fréchet distances, for each other model"
    asked = {kind: some_rows(kind, n) for kind in kinds}
    real = torch.cat([judge.features(Pictures()(asked[kind].repeat(seeds, 1), torch.Generator().manual_seed(9))) for kind in kinds])
    found = {}
    for name,(sd,steps) in sds.items():
        pictures = {kind: [drawn(folder/name, kind, sd, asked[kind], 10**4*s + 10**6*i, num_inference_steps=steps) for s in range(seeds)] for i,kind in enumerate(kinds)}
        found[name] = look(judge, pictures, asked)
    share = lambda name,what,of: torch.cat([found[name][0][kind][what].mean(1) for kind in of])
    cloud = {name: torch.cat(list(found[name][1].values())) for name in sds} # (prompts, seeds, 192)
    distance = lambda name,pick: frechet_distance(cloud[name][pick].flatten(0,1), real)
    everyone = torch.arange(4*n)
    results = dict(n=4*n, seeds=seeds, teacher={q: share('teacher', *o).mean().item() for q,o in questions.items()}, frechet_teacher=distance('teacher', everyone), models={})
    for name in sds:
        if name=='teacher': continue
        ratio = lambda pick: distance(name, pick)/distance('teacher', pick)
        results['models'][name] = {'differences': {q: estimate(share(name, *o) - share('teacher', *o)) for q,o in questions.items()},
                                   'Fréchet distance': again(ratio, 4*n, ratio(everyone), times)}
    return results

def varied(judge, sds, n, seeds, folder, times):
    "The ratio of diversity to the teacher's, for each other model"
    rows = torch.cat([some_rows(kind, n) for kind in kinds]).repeat_interleave(seeds, 0)
    apart = {}
    for name,(sd,steps) in sds.items():
        x = drawn(folder/name, 'same', sd, rows, 10**8, num_inference_steps=steps)
        apart[name] = torch.stack([torch.pdist(f).mean() for f in judge.features(x).view(4*n, seeds, -1)])
    ratio = lambda name,pick: (apart[name][pick].mean()/apart['teacher'][pick].mean()).item()
    return {name: again(lambda pick: ratio(name, pick), 4*n, ratio(name, slice(None)), times) for name in sds if name!='teacher'}

def speed(sds, rounds):
    "Seconds of a picture, taken in turn; the ratio with its quartiles"
    times = {name: [] for name in ('teacher','one_step')}
    for i in progress_bar(range(rounds+1), desc='speed'):
        for name,seconds in times.items():
            sd,steps = sds[name]
            start = time.perf_counter()
            sd('a dog to the left of a cat on a yellow background', seed=i, num_inference_steps=steps, progress=False)
            seconds.append(time.perf_counter()-start)
    teacher,one = (torch.tensor(o[1:]) for o in times.values())
    low,middle,high = (teacher/one).quantile(torch.tensor([.25,.5,.75])).tolist()
    return dict(teacher=teacher.median().item(), one_step=one.median().item(), ratio=dict(value=middle, low=low, high=high), rounds=rounds, machine=machine())

@call_parse
def main(
    n:int=125, # Prompts of each of the four kinds
    seeds:int=3, # Pictures of each
    same:int=6, # Prompts of each kind of which more pictures are drawn, for diversity
    varying:int=16, # Pictures of each of these
    times:int=200, # Prompts are drawn again so often, for the intervals of ratios
    rounds:int=15, # Pictures to take the time of
    steps:int=50, # The teacher's
    model:str=None, # Folder of the one-step model; without it, the embedded one
    begin:str=None, # Folder of the model that distribution matching began with, to compare
    pictures:str='one_step-pictures', # Folder where pictures are kept
    save:bool=False, # Keep the results?
):
    "Measure one step beside its teacher"
    torch.set_flush_denormal(True)
    folders = dict(teacher=embedded_model(), one_step=model or embedded_model('one_step')) | (dict(begin=begin) if begin else {})
    sds = {name: (StableDiffusion.from_pretrained(o), steps if name=='teacher' else 1) for name,o in folders.items()}
    judge,folder = load_judge(),Path(pictures)
    results = quality(judge, sds, n, seeds, folder, times)
    for name,o in varied(judge, sds, same, varying, folder, times).items(): results['models'][name]['diversity'] = o
    results |= dict(steps=steps, guidance=sds['teacher'][0].unet.guidance_scale, speed=speed(sds, rounds))
    for name,o in results['models'].items():
        for what,e in (o['differences'] | {k: v for k,v in o.items() if k!='differences'}).items(): print(f"{name:10} {what:18} {e['value']:+.3f} ({e['low']:+.3f} to {e['high']:+.3f})")
    print('teacher', results['teacher'], 'speed', results['speed'])
    if save: save_measured('one_step', results)
