"""Imagic beside image-to-image and text-to-image, on pictures that the model has never seen.

    python benchmarks/imagic.py [--each 12] [--seeds 3] [--log checkpoints/imagic.jsonl] [--save] [--strips]
    python benchmarks/imagic.py --choose_eta [--recipe unet_lr=1e-4,unet_steps=60]

There are five kinds of edit, see `17_imagic`, and `each` edits of each kind for each seed: drawings of a style that's kept from all training, and, in every third edit of
colour or background, tinted photos of garments. All edits count, whether or not the judge recognises the given picture. An edit is scored by
    reached  the wish came true (`reached`),
    iou      how much of what should stay has stayed (`stays`, `iou`),
    kept     what else is read off the picture (background, colour, name) is what was read before: the share of it,
    both     reached, and the iou is at least 0.75.
Ablations: no fitting (the picture's own noise and the target text), stage one alone, stage two alone.

Every edit that's done goes to the log, and an interrupted run goes on from there; `--only 0` makes just the edits of seed 0, so that several processes can share the work and the log.
With --save the results go to miniai/measured/imagic.json; with --strips some edits go to miniai/measured/imagic.png (half a minute each). The notebook shows both.
--choose_eta makes other edits, four of each kind, and prints both for each η: run it first, with several recipes, and write the best into `small_recipe`. It logs nothing.
An edit with all its rivals and ablations takes about a minute of one processor, one with --choose_eta half of that."""
import json, time
from pathlib import Path
from statistics import mean, median
import matplotlib.pyplot as plt, torch
from fastcore.script import call_parse
import miniai.own
from miniai.core import *
from miniai.editing import image_to_image
from miniai.emoji import *
from miniai.evaluation import describe, load_judge, sentence, to_tensor, wilson
from miniai.fashion import load_fashion_mnist
from miniai.imagic import *
from common import command, machine

etas = [0., .2, .4, .6, .8, .9, 1., 1.1]
strengths = [.2, .3, .4, .5, .6, .7, .8]
limit = .75
stay_columns = dict(color=[0,5], background=[0,1]) # of the six numbers; otherwise the background


def draw_edits(each, seed, judge):
    "`each` edits of each kind, and where their pictures come from"
    drawings,garments = Pictures(['fxemoji']),garment_pictures(*load_fashion_mnist('test', path='sample', quiet=True))
    generator,edits = torch.Generator().manual_seed(seed),[]
    for i in range(each):
        for kind in edit_kinds:
            photo = kind in ('color','background') and i%3==2
            edit = random_edit(kind, garments if photo else drawings, judge, generator, tinted=photo)
            edits.append(('garment' if photo else 'drawing', edit))
    return edits


def fitted(sd, edit, seed, plan):
    "Imagic with stage one alone, with stage two alone, and with both; and what both took"
    make = lambda **changes: Imagic(sd, edit.x, sentence(edit.goal), plan._replace(**changes), seed=seed)
    start = time.process_time()
    whole = make().fit(progress=False)
    whole.edit(progress=False)
    took = time.process_time() - start
    one = make()
    one.embedding = whole.embedding # stage one is the same
    return one,make(embedding_steps=0).fit(progress=False),whole,took


def all_ways(sd, edit, seed, plan):
    "Pictures by method, and the seconds of an edit"
    prompt,image = sentence(edit.goal),to_image(edit.x)
    how = dict(seed=seed, guidance_scale=plan.guidance_scale, num_inference_steps=plan.num_inference_steps, progress=False)
    one,two,whole,took = fitted(sd, edit, seed, plan)
    several = lambda name,imagic,**kw: dict(zip((f'{name} {eta:g}' for eta in etas), imagic.edit(etas, progress=False, **kw)))
    single = lambda imagic: imagic.edit(1., progress=False)[0]
    made = {'text to image': sd(prompt, **how)[0],
            **{f'image to image {s:g}': image_to_image(sd, prompt, image, strength=s, **how)[0] for s in strengths},
            **several('imagic', whole), **several('imagic from fresh noise', whole, seed=seed),
            'no fitting': single(Imagic(sd, edit.x, prompt, plan)), **several('stage one alone', one), 'stage two alone': single(two)}
    return made,took


def scores(judge, edit, pictures):
    "Reached, iou and kept of each picture"
    x,given = to_tensor(pictures),edit.x[None]
    overlap = iou(stays(edit.kind, edit.goal, x), stays(edit.kind, edit.goal, given))
    before,*after = describe(judge, torch.cat([given, x]), torch.zeros(len(x)+1, dtype=torch.bool))
    columns = stay_columns.get(edit.kind, [5])
    kept = [(o[columns]==before[columns]).float().mean().item() for o in after]
    return [[int(r), round(i, 4), k] for r,i,k in zip(reached(judge, edit.kind, edit.goal, x).tolist(), overlap.tolist(), kept)]


def summary(lines, method):
    "Counts and means over edits"
    marks = [o['marks'][method] for o in lines]
    return dict(n=len(marks), reached=sum(r for r,_,_ in marks), both=sum(r and i>=limit for r,i,_ in marks),
        iou=round(mean(i for _,i,_ in marks), 4), kept=round(mean(k for _,_,k in marks), 4))


def table(lines):
    "By method, and for each kind of edit and for all"
    of = lambda kind: [o for o in lines if kind in (o['kind'],'all')]
    return {method: {kind: summary(of(kind), method) for kind in [*edit_kinds,'all']} for method in lines[0]['marks']}


def print_table(results):
    "Shares with their intervals"
    def share(o, what): return '{:4.0%} ({:.0%}–{:.0%})'.format(o[what]/o['n'], *wilson(o[what], o['n']))
    for kind in [*edit_kinds,'all']:
        print(f"\n{kind} ({results['table']['text to image'][kind]['n']} edits)")
        for method,o in results['table'].items():
            print(f"  {method:30} reached {share(o[kind], 'reached'):16}  iou {o[kind]['iou']:.3f}  kept {o[kind]['kept']:.2f}  both {share(o[kind], 'both')}")


def show_strips(sd, edits, file, shown=(0.,.3,.6,.8,.9,1.)):
    "One row for each edit: the given picture, then one for each eta"
    fig,axs = plt.subplots(len(edits), len(shown)+1, figsize=(8.6, 1.16*len(edits)+.2))
    for row,(_,edit) in zip(axs, edits):
        imagic = Imagic(sd, edit.x, sentence(edit.goal)).fit(progress=False)
        for ax,o in zip(row, [edit.x, *imagic.edit(list(shown), progress=False)]): show_image(o, ax=ax)
        row[0].text(-6, 32, sentence(edit.goal).replace(' on ', '\non ').replace(' to the', '\nto the'), ha='right', va='center', fontsize=9)
    for ax,title in zip(axs[0], ['given', *(f'η = {eta:g}' for eta in shown)]): ax.set_title(title)
    fig.savefig(file, dpi=80, bbox_inches='tight')
    plt.close(fig)


def choose(sd, judge, plan):
    "How well each η does, on edits that aren't reported"
    marks = {eta: [] for eta in etas}
    for i,(_,edit) in enumerate(progress_bar(draw_edits(4, 9000, judge), desc='edits')):
        imagic = Imagic(sd, edit.x, sentence(edit.goal), plan, seed=i).fit(progress=False)
        for eta,(r,overlap,_) in zip(etas, scores(judge, edit, imagic.edit(etas, progress=False))): marks[eta].append((edit.kind, r, overlap))
    print(plan)
    for eta,found in marks.items():
        by_kind = [sum(r and o>=limit for k,r,o in found if k==kind) for kind in edit_kinds]
        print(f'η {eta:g}: both {sum(by_kind)} of {len(found)}', dict(zip(edit_kinds, by_kind)))


def changed(plan, text):
    "A recipe with other numbers, as 'unet_lr=1e-4,unet_steps=60' says"
    pairs = [o.split('=') for o in text.split(',') if o]
    return plan._replace(**{name: type(getattr(plan, name))(float(value)) for name,value in pairs})


@call_parse
def main(
    each:int=12, # Edits of each kind for each seed
    seeds:int=3, # How many times, with other pictures, wishes and noise
    only:int=None, # Make just the edits of this seed
    log:str='checkpoints/imagic.jsonl', # What's done already, one edit a line
    choose_eta:bool=False, # Compare settings on other edits
    recipe:str='', # Changes to the recipe, such as unet_lr=1e-4,unet_steps=60
    save:bool=False, # Keep the results in the package?
    strips:bool=False, # Draw some edits for the notebook?
):
    "Measure how often edits succeed"
    sd,judge,log = miniai.own.StableDiffusion.from_pretrained(device='cpu'),load_judge(),Path(log)
    plan = changed(recipe_for(sd.unet), recipe)
    if choose_eta: return choose(sd, judge, plan)
    log.parent.mkdir(parents=True, exist_ok=True)
    wanted = [only] if only is not None else range(seeds)
    key = lambda: json.loads(json.dumps([*plan]))
    lines = [o for o in map(json.loads, log.read_text().splitlines() if log.exists() else []) if o['plan']==key()]
    done = {(o['seed'],o['index']) for o in lines}
    todo = [(seed, i, *edit) for seed in wanted for i,edit in enumerate(draw_edits(each, 1000+seed, judge)) if (seed,i) not in done]
    for seed,i,source,edit in progress_bar(todo, desc='edits'):
        made,took = all_ways(sd, edit, 1000*seed+i, plan)
        marks = dict(zip(made, scores(judge, edit, list(made.values()))))
        lines.append(dict(plan=key(), seed=seed, index=i, source=source, kind=edit.kind, goal=edit.goal, seconds=round(took, 2), marks=marks))
        with log.open('a') as f: f.write(json.dumps(lines[-1]) + '\n')
    lines = [o for o in lines if o['seed'] in wanted and o['index']<each*len(edit_kinds)]
    chosen = f'imagic {plan.eta:g}'
    sources = {source: {kind: summary([o for o in lines if (o['source'],o['kind'])==(source,kind)], chosen) for kind in ('color','background')
                        if (source,kind) in {(o['source'],o['kind']) for o in lines}} for source in ('drawing','garment')}
    results = dict(command=command(), edits=len(lines), each=each, seeds=len(wanted), limit=limit, recipe=plan._asdict(),
        table=table(lines), sources=sources, seconds=median(o['seconds'] for o in lines), machine=machine())
    print_table(results)
    print(f"\n{results['seconds']:.1f} seconds of one processor for an edit")
    if save: save_measured('imagic', results)
    if strips: show_strips(sd, draw_edits(3, 1000, judge)[-7:], 'miniai/measured/imagic.png')
