"""Imagic beside image-to-image and text-to-image, on real garments of the test split.

    python benchmarks/imagic.py [--edits 60] [--seeds 3] [--log checkpoints/imagic.jsonl] [--save]

A third of the edits change the garment's colour, a third the background's, a third the garment, for one of a similar outline. Each starts from a real
picture in which the judge and the pixels recognise garment, colour and background, so that what they see afterwards is the edit's doing. An edit is scored by
    target  what the target text changes is there,
    iou     intersection over union of the silhouettes, before and after,
    kept    the other two attributes are what they were (the mean of two),
    both    the target is there and the iou is at least 0.8.
Seeds differ in the pictures, in what is wanted of them, and in all noise. Every edit that is done goes to the log, and an interrupted run goes on from there.
With --save the results go to miniai/measured/imagic.json and the pictures to nbs/images/imagic.png, from where `17_imagic` shows them.
All of it takes about an hour on one thread."""
import json, statistics, time
from pathlib import Path
import matplotlib.pyplot as plt, torch
from fastcore.script import call_parse
from miniai.core import progress_bar, save_measured, show_image, to_image
from miniai.editing import image_to_image
from miniai.evaluation import background_color, garment_color, load_judge, to_tensor
from miniai.fashion import *
from miniai.imagic import *
from miniai.pipeline import StableDiffusion
from pipeline import machine

kinds = 'garment','color','background'
alike = [('shirt','t-shirt'), ('shirt','pullover'), ('shirt','coat'), ('pullover','coat'), ('sneaker','sandal'), ('sneaker','ankle boot')]
etas = [0,.4,.6,.7,.8,.9,1,1.05,1.1,1.2]
strengths = [.3,.4,.5,.6,.8]

def seen(x, judge):
    "Garment, colour and background of pictures (n,3,64,64), as indices (n,3)"
    with torch.no_grad(): return torch.stack([judge(x).argmax(1), garment_color(x), background_color(x)], 1)

def wanted(row, kind, generator):
    "Another combination that differs from `row` in one thing, or None where there is none"
    garment = garments[row[0]]
    if kind=='garment': options = [(garments.index(b if a==garment else a),*row[1:]) for a,b in alike if garment in (a,b)]
    else: options = [tuple(o) for o in combinations().tolist() if [i for i in range(3) if o[i]!=row[i]]==[kinds.index(kind)]]
    return options[torch.randint(len(options), (), generator=generator)] if options else None

def draw_edits(n, seed, pictures, judge):
    "`n` pictures (1,3,64,64) of the test split, what they show and what they should show, a third of each kind"
    generator,edits = torch.Generator().manual_seed(seed),[]
    rows = combinations()
    while len(edits)<n:
        row = tuple(rows[torch.randint(len(rows), (), generator=generator)].tolist())
        x,kind = pictures(torch.tensor([row]), generator),kinds[len(edits)%3]
        goal = wanted(row, kind, generator)
        if goal and seen(x, judge)[0].tolist()==list(row): edits.append((kind, x, row, goal))
    return edits

def edit_all_ways(sd, judge, x, row, goal, seed):
    "What each method makes of one picture: [garment, colour, background, iou] by method; what Imagic took; its pictures for `etas`"
    plan,prompt,image = recipe_for(sd.unet),caption(goal),to_image(x[0])
    how = dict(seed=seed, guidance_scale=plan.guidance_scale, num_inference_steps=plan.num_inference_steps, progress=False)
    made = {'text to image':sd(prompt, **how), **{f'image to image {s}':image_to_image(sd, prompt, image, strength=s, **how) for s in strengths}}
    start = time.process_time()
    imagic = Imagic(sd).fit(image, prompt, seed=seed, progress=False)
    imagic.edit(progress=False)
    took = dict(seconds=round(time.process_time()-start, 2), memory_mib=round(imagic.report['memory_mib']))
    pictures,fresh = imagic.edit(etas, progress=False),imagic.edit(etas, seed=seed, progress=False)
    made |= {f'imagic {eta}':[o] for eta,o in zip(etas, pictures)} | {f'imagic from fresh noise {eta}':[o] for eta,o in zip(etas, fresh)}
    every = to_tensor([o for one in made.values() for o in one])
    iou = silhouette_iou(every, x.expand_as(every))
    marks = {k:[*s,round(i,4)] for k,s,i in zip(made, seen(every, judge).tolist(), iou.tolist())}
    return marks, took

def mean_marks(lines, method):
    "Means of target, iou, kept and both over edits"
    marks = []
    for o in lines:
        *said,iou = o['marks'][method]
        k = kinds.index(o['kind'])
        target = said[k]==o['goal'][k]
        marks.append((target, iou, statistics.mean(said[i]==o['row'][i] for i in range(3) if i!=k), target and iou>=.8))
    return dict(zip(('target','iou','kept','both'), (round(statistics.mean(map(float, m)), 4) for m in zip(*marks))))

def table(lines):
    "Marks of every method: of all edits, for each seed, and for each kind of edit"
    by = lambda key,method: {v:mean_marks([o for o in lines if o[key]==v], method) for v in sorted({o[key] for o in lines})}
    return {method:dict(mean_marks(lines, method), seeds=list(by('seed', method).values()), kinds=by('kind', method)) for method in lines[0]['marks']}

def show_strips(sd, edits, file, shown=(0,.4,.6,.8,.9,1,1.1)):
    "One row for each edit: the given picture, then one for each eta"
    fig,axs = plt.subplots(len(edits), len(shown)+1, figsize=(8.6,1.16*len(edits)+.2))
    for row,(_,x,_,goal) in zip(axs, edits):
        imagic = Imagic(sd).fit(to_image(x[0]), caption(goal), progress=False)
        for ax,o in zip(row, [x[0], *imagic.edit(list(shown), progress=False)]): show_image(o, ax=ax)
        row[0].text(-6, 32, caption(goal, 2).replace(' on ', '\non '), ha='right', va='center', fontsize=9)
    for ax,title in zip(axs[0], ['given', *(f'η = {eta}' for eta in shown)]): ax.set_title(title)
    fig.savefig(file, dpi=80)

@call_parse
def main(
    edits:int=60, # Edits for each seed, a multiple of 3
    seeds:int=3, # How many times, with other pictures
    log:str='checkpoints/imagic.jsonl', # What is done already, one edit a line
    save:bool=False, # Keep the results in the package, and the pictures with the notebooks?
):
    "Measure how often edits succeed"
    sd,judge,pictures = StableDiffusion.from_pretrained(device='cpu'),load_judge(),Pictures(*load_fashion_mnist('test', path='sample'))
    log,plan = Path(log),list(recipe_for(sd.unet))
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [o for o in map(json.loads, log.read_text().splitlines() if log.exists() else []) if o['plan']==plan]
    done = {(o['seed'],o['index']) for o in lines}
    todo = [(seed, i, *edit) for seed in range(seeds) for i,edit in enumerate(draw_edits(edits, 1000+seed, pictures, judge)) if (seed,i) not in done]
    for seed,i,kind,x,row,goal in progress_bar(todo, desc='edits'):
        marks,took = edit_all_ways(sd, judge, x, row, goal, seed*edits+i)
        lines.append(dict(plan=plan, seed=seed, index=i, kind=kind, row=row, goal=goal, marks=marks, **took))
        with log.open('a') as f: f.write(json.dumps(lines[-1]) + '\n')
    lines = [o for o in lines if o['seed']<seeds and o['index']<edits]
    results = dict(edits=edits, seeds=seeds, recipe=recipe_for(sd.unet)._asdict(), table=table(lines), machine=machine(),
        seconds=statistics.median(o['seconds'] for o in lines), memory_mib=max(o['memory_mib'] for o in lines))
    for method,o in results['table'].items(): print(f"{method:20} target {o['target']:.1%}  iou {o['iou']:.3f}  kept {o['kept']:.1%}  both {o['both']:.1%}")
    print(f"{results['seconds']:.1f} seconds of one processor for an edit, {results['memory_mib']} MiB")
    if not save: return
    save_measured('imagic', results)
    show_strips(sd, draw_edits(6, 1000, pictures, judge), 'nbs/images/imagic.png')
