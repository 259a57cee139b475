"""One step beside the teacher's 50 guided steps: the same prompts from the same noise, judged as in `13_evaluation`.

    python -m miniai.one_step --student guided-students/1
    python benchmarks/one_step.py --model one-step [--begin guided-students/1] [--n 125] [--seeds 3] [--save]

Quality: with each seed, n other prompts of each of the four kinds, so all pictures are independent. Each difference to the teacher is the mean over prompts of the difference of
two marks, with 1.96 standard errors on either side. The ratios of Fréchet distance and diversity have intervals from drawing prompts again (bootstrap). Diversity: the mean distance
of 16 pictures of one prompt in the judge's features. All models draw at the guidance scale that the one-step model has learned. Time: one picture at a time, from the prompt to a PIL
image, both models in turn.
Pictures are kept in --pictures, by the U-Net's weights, so an interrupted run goes on where it stopped, and the teacher's are drawn once.
With --save the results go to miniai/measured/one_step.json, from where `16_one_step` shows them."""
import hashlib, json, statistics, time
from pathlib import Path
import torch
from fastcore.script import call_parse
from safetensors.torch import load_file, save_file
from miniai.core import embedded_model, progress_bar, save_measured, whole_file
from miniai.emoji import Pictures, nothing
from miniai.evaluation import describe, diversity, draw_rows, frechet_distance, kinds, load_judge, marks, some_rows
from miniai.guided import paired_difference
from miniai.own import StableDiffusion
from miniai.progressive import in_trailing_steps
from common import command, machine

questions = { # What must be right, of which kinds of prompts
    'things': ('things', tuple(kinds)), 'colours': ('colors', ('tinted','both')), 'relation': ('relation', ('two','both')), 'whole prompt': ('everything', tuple(kinds))}

def weights_name(unet):
    "Another name for other weights"
    return hashlib.sha256(b''.join(p.detach().float().cpu().numpy().tobytes() for p in unet.parameters())).hexdigest()[:12]

def drawn(folder, name, sd, rows, seed, **how):
    "Pictures of rows (n,3,64,64), a hundred at a time; those that are there already aren't drawn again"
    folder = folder/f"{weights_name(sd.unet)}-{'-'.join(f'{o:g}' for o in how.values())}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for i in range(0, len(rows), 100):
        file = folder/f'{name}-{seed}-{len(rows)}-{i}.safetensors'
        if not file.exists():
            x = draw_rows(sd, rows[i:i+100], seed + i, **how)
            with whole_file(file) as new: save_file(dict(x=(x*255).round().byte()), new)
        parts.append(load_file(file)['x'].float()/255)
    return torch.cat(parts)

def difference(a, b):
    "The mean of a - b, bool tensors (n,), with its 95% interval"
    mean,half = paired_difference(*(dict(right=o.tolist()) for o in (a,b)))
    return dict(value=mean, low=mean-half, high=mean+half)

def bootstrapped(ratio, n, times):
    "The ratio for all of n prompts, and the middle 95% of what it is for prompts that are drawn again"
    gen = torch.Generator().manual_seed(0)
    found = torch.tensor([ratio(torch.randint(n, (n,), generator=gen)) for _ in range(times)])
    low,high = found.quantile(torch.tensor([.025,.975])).tolist()
    return dict(value=ratio(torch.arange(n)), low=low, high=high)

def quality(judge, models, n, seeds, folder, times):
    "Shares of the teacher, and of each other model the differences to it and the ratio of Fréchet distances"
    asked = {kind: some_rows(kind, n*seeds) for kind in kinds} # Other rows with each seed
    found,features = {},{}
    for name,(sd,how) in models.items():
        pictures = {kind: torch.cat([drawn(folder, kind, sd, rows, 10**6*k + 10**4*s, **how) for s,rows in enumerate(asked[kind].chunk(seeds))]) for k,kind in enumerate(kinds)}
        found[name] = {kind: marks(asked[kind], describe(judge, x, asked[kind][:,2]<nothing)) for kind,x in pictures.items()}
        features[name] = torch.cat([judge.features(x) for x in pictures.values()])
    real = torch.cat([judge.features(Pictures()(rows, torch.Generator().manual_seed(2))) for rows in asked.values()])
    right = lambda name,what,of: torch.cat([found[name][kind][what] for kind in of])
    distance = lambda name,pick: frechet_distance(features[name][pick], real)
    count = lambda o: [o.sum().item(), len(o)]
    all_of_them = torch.arange(len(real))
    compared = lambda name: {
        'right': {q: count(right(name, *o)) for q,o in questions.items()},
        'differences': {q: difference(right(name, *o), right('teacher', *o)) for q,o in questions.items()},
        'Fréchet distance': bootstrapped(lambda pick: distance(name, pick)/distance('teacher', pick), len(real), times)}
    return dict(prompts=len(real), seeds=seeds, teacher={q: count(right('teacher', *o)) for q,o in questions.items()}, frechet_teacher=distance('teacher', all_of_them),
        models={name: compared(name) for name in models if name!='teacher'})

def varied(judge, models, n, seeds, folder, times):
    "The ratio of diversity to the teacher's, for each other model"
    rows = torch.cat([some_rows(kind, n) for kind in kinds]).repeat_interleave(seeds, 0)
    features = {name: judge.features(drawn(folder, 'same', sd, rows, 10**8, **how)).view(4*n, seeds, -1) for name,(sd,how) in models.items()}
    ratio = lambda name,pick: diversity(features[name][pick])/diversity(features['teacher'][pick])
    return {name: bootstrapped(lambda pick: ratio(name, pick), 4*n, times) for name in models if name!='teacher'}

def one_picture(sd, how):
    "Seconds that one picture takes"
    start = time.perf_counter()
    sd('a dog to the left of a cat on a yellow background', seed=0, progress=False, **how)
    return time.perf_counter()-start

def speed(models, rounds):
    "Seconds of a picture, the models in turn; and how many times faster than the teacher in the same round one step is, with quartiles"
    both = [models[name] for name in ('teacher','one step')]
    for o in both: one_picture(*o)
    times = [[one_picture(*o) for o in both] for _ in progress_bar(range(rounds), desc='speed')]
    low,middle,high = statistics.quantiles([a/b for a,b in times], n=4)
    teacher,one = (statistics.median(o) for o in zip(*times))
    return {'teacher': teacher, 'one step': one, 'times_faster': dict(value=middle, low=low, high=high), 'rounds': rounds}

@call_parse
def main(
    model:str=None, # Folder of the one-step model; without it, the embedded one
    teacher:str=None, # Folder of its teacher; without it, the embedded model
    begin:str=None, # Folder of the student that matching began with, to compare
    n:int=125, # Prompts of each of the four kinds, with each seed
    seeds:int=3, # How often
    same:int=6, # Prompts of each kind of which more pictures are drawn, for diversity
    varying:int=16, # Pictures of each of these
    times:int=200, # Prompts are drawn again so often, for the intervals of ratios
    rounds:int=25, # Pictures to take the time of
    steps:int=50, # The teacher's
    pictures:str='one-step-pictures', # Folder where pictures are kept
    save:bool=False, # Keep the results?
):
    "Measure one step beside its teacher"
    torch.set_flush_denormal(True)
    folder = Path(model or embedded_model('one_step'))
    scale = json.loads((folder/'miniai.json').read_text())['learned_guidance']
    load = lambda o: StableDiffusion.from_pretrained(o, dtype=torch.float32)
    models = {'teacher': (in_trailing_steps(load(teacher)), dict(num_inference_steps=steps, guidance_scale=scale)),
              'one step': (load(folder), dict(num_inference_steps=1, guidance_scale=1.))}
    if begin: models['begin'] = load(begin),dict(num_inference_steps=1, guidance_scale=scale)
    judge,kept = load_judge(),Path(pictures)
    results = dict(command=command(), machine=machine(), steps=steps, guidance=scale, speed=speed(models, rounds)) | quality(judge, models, n, seeds, kept, times)
    for name,o in varied(judge, models, same, varying, kept, times).items(): results['models'][name]['diversity'] = o
    for name,o in results['models'].items():
        for what,e in (o['differences'] | {k: o[k] for k in ('Fréchet distance','diversity')}).items(): print(f"{name:9} {what:17} {e['value']:+.3f} ({e['low']:+.3f} to {e['high']:+.3f})")
    print('teacher', results['teacher'], 'speed', results['speed'])
    if save: save_measured('one_step', results)
