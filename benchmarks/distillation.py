"""Distilled students beside their teacher: quality, fidelity, diversity, and how long a picture takes.

    python -m miniai.progressive --out students
    python -m miniai.guided --out guided-students
    python benchmarks/distillation.py [--part plain|guided|speed|losses|pictures|all] [--aside] [--again] [--save]

Quality: n prompts of each of the four kinds of `13_evaluation`, from each of three seeds, judged as there. Fidelity: the distance to the picture that the teacher draws in 50 steps
from the same noise. Diversity: how much 8 pictures of one prompt differ, relative to those 50 steps. Which sampler is the teacher's best with so many evaluations of the network is
decided on prompts that are set aside, and so should the students' own hyper-parameters be: `--aside` measures students on those prompts, prints, and keeps nothing.
With --save the results go to miniai/measured/distillation.json and the pictures beside it, from where `14_progressive_distillation` and `15_guided_distillation` show them. Rows that
are there already are measured only --again, so an interrupted run goes on where it stopped."""
import math, statistics, time
from pathlib import Path
import matplotlib.pyplot as plt, torch
from fastcore.script import call_parse
from miniai.callbacks import with_parts
from miniai.core import measured, save_measured, show_images
from miniai.emoji import Pictures, nothing
from miniai.evaluation import describe, diversity, draw, draw_rows, frechet_distance, kinds, load_judge, marks, sentence, some_rows
from miniai.own import StableDiffusion, samplers
from miniai.progressive import in_trailing_steps
from common import command, machine

counts = (16,8,4,2,1)
guidances = dict(plain=(1.,), guided=(1.,4.))
prompts = ['a purple castle on a black background', 'a pizza on a yellow background', 'a dog to the left of a cat on a blue background']
others = { # Samplers that the untouched teacher could use instead of DDIM on the trailing grid
    'DDIM leading': ('DDIMScheduler', {}), 'PNDM leading': ('PNDMScheduler', {}),
    'DPM++ 2M trailing': ('DPMSolverMultistepScheduler', dict(timestep_spacing='trailing')),
    'DPM++ 2M linspace': ('DPMSolverMultistepScheduler', dict(timestep_spacing='linspace')),
    'DPM++ 2M Karras': ('DPMSolverMultistepScheduler', dict(timestep_spacing='linspace', use_karras_sigmas=True)),
    'LMS linspace': ('LMSDiscreteScheduler', dict(timestep_spacing='linspace'))}

def with_sampler(sd, name):
    "The same model with one of `others`, or with DDIM on the trailing grid"
    if name=='DDIM trailing': return in_trailing_steps(sd)
    cls,changes = others[name]
    return with_parts(sd, scheduler=samplers[cls].from_config(sd.scheduler.config, **changes))

def evaluations(sd, guidance, steps):
    "How often the network runs for one picture"
    sd.scheduler.set_timesteps(steps)
    return len(sd.scheduler.timesteps)*(1 if guidance==1 or sd.unet.config.time_cond_proj_dim else 2)

def some_pictures(sd, guidance, steps, n, seeds, aside=False):
    "What was asked for, and pictures of it (seeds, rows, 3, 64, 64)"
    rows = torch.cat([some_rows(kind, n, choosing=aside) for kind in kinds])
    first = lambda seed: (100 + seed if aside else seed)*10_000
    how = dict(guidance_scale=guidance, num_inference_steps=steps)
    return rows,torch.stack([draw_rows(sd, rows, first(seed), **how) for seed in range(seeds)])

def spread(sd, guidance, steps, judge):
    "Mean distance of 8 pictures of one prompt, over eight prompts"
    asked = [sentence(row) for row in some_rows('one', 8).tolist() for _ in range(8)]
    x = draw(sd, asked, seed=500_000, guidance_scale=guidance, num_inference_steps=steps)
    return diversity(judge.features(x).view(8, 8, -1))

def compare(rows, x, reference, judge):
    "Marks of each seed, which pictures were right in everything, and two distances: to real pictures and to the reference"
    seen = [marks(rows, describe(judge, o, rows[:,2]<nothing)) for o in x]
    real = Pictures()(rows.repeat(len(x), 1), torch.Generator().manual_seed(2))
    names = 'things','colors','relation','background','everything'
    return dict(seeds=[{k: [o[k].sum().item(), len(rows)] for k in names} for o in seen],
        right=''.join(str(int(o)) for m in seen for o in m['everything']),
        frechet=round(frechet_distance(judge.features(x.flatten(0,1)), judge.features(real)), 3),
        rmse=round((x - reference).square().mean().sqrt().item(), 4))

def best_sampler(teacher, guidance, budget, n, judge, reference):
    "The sampler with which the teacher gets most prompts right in `budget` evaluations (of those, the nearest to its 50 steps), on prompts set aside; its steps; and all that were tried"
    tried,steps_of = {},{}
    for name in ['DDIM trailing', *others]:
        steps = budget//(1 if guidance==1 else 2)
        if name.startswith('PNDM') and steps>2: steps -= 1 # It asks once more
        sd = with_sampler(teacher, name)
        if steps<1 or evaluations(sd, guidance, steps)>budget: continue
        found = compare(*some_pictures(sd, guidance, steps, n, 1, aside=True), reference, judge)
        tried[name],steps_of[name] = [*found['seeds'][0]['everything'], found['rmse']],steps
    best = max(tried, key=lambda name: (tried[name][0], -tried[name][2])) if tried else None
    return best,steps_of.get(best),tried

def lines(teacher, folder, guidance):
    "What is measured at one guidance scale: which line it belongs to, model, sampler, steps. The reference comes first; the best sampler is found later"
    yield 'teacher',teacher,'DDIM trailing',50
    if guidance!=1: yield 'shipped',teacher,'DDIM leading',50
    for n in counts:
        if (folder/f'{n}').is_dir(): yield 'student',StableDiffusion.from_pretrained(folder/f'{n}', dtype=torch.float32),'DDIM',n
        yield 'teacher',teacher,'DDIM trailing',n
        yield 'best',teacher,None,n

def quality(part, folder, n, seeds, judge, kept, aside=False):
    "Measure what isn't in `kept` yet; yields rows"
    teacher = StableDiffusion.from_pretrained(dtype=torch.float32)
    for guidance in guidances[part]:
        there = [(r['line'],r['budget']) for r in kept if r['part']==part and r['guidance']==guidance]
        todo = [o for o in lines(teacher, folder, guidance) if (o[0],o[3]) not in there and not (aside and o[0] in ('best','shipped'))]
        same = {(r['line'],r['budget']): r for r in kept if r['part']!=part and r['guidance']==guidance and r['line']!='student'}
        for r in [same[o[0],o[3]] for o in todo if (o[0],o[3]) in same]: yield r | dict(part=part) # The teacher is the same for all students
        todo = [o for o in todo if (o[0],o[3]) not in same]
        if not todo: continue
        whole = in_trailing_steps(teacher)
        rows,reference = some_pictures(whole, guidance, 50, n, seeds, aside)
        widest = spread(whole, guidance, 50, judge)
        _,reference_aside = some_pictures(whole, guidance, 50, math.ceil(n/2), 1, aside=True) if any(o[0]=='best' for o in todo) else (None,None)
        for line,sd,sampler,budget in todo:
            steps,tried = budget,{}
            if line=='best': sampler,steps,tried = best_sampler(teacher, guidance, budget, math.ceil(n/2), judge, reference_aside)
            if not sampler: continue # With guidance, no sampler needs only one evaluation
            sd = sd if line=='student' else with_sampler(sd, sampler)
            again = line=='teacher' and steps==50 # These are the reference
            x = reference if again else some_pictures(sd, guidance, steps, n, seeds, aside)[1]
            wide = widest if again else spread(sd, guidance, steps, judge)
            about = dict(part=part, line=line, model='student' if line=='student' else 'teacher', sampler=f'{sampler}, {steps} steps', guidance=guidance,
                budget=budget, steps=steps, evaluations=evaluations(sd, guidance, steps))
            yield about | compare(rows, x, reference, judge) | dict(diversity=round(wide/widest, 3), tried=tried)

def one_picture(sd, steps):
    "Seconds that one picture takes, with guidance"
    start = time.perf_counter()
    sd(prompts[0], seed=0, guidance_scale=4., num_inference_steps=steps, progress=False)
    return time.perf_counter()-start

def speed(folder, rounds=25):
    "Seconds of a picture, teacher and students in turn, and how many times faster than the teacher in the same round it is"
    teacher = StableDiffusion.from_pretrained()
    parts = [('teacher',50,teacher), *(('student',n,StableDiffusion.from_pretrained(folder/f'{n}')) for n in counts if (folder/f'{n}').is_dir())]
    for _,n,sd in parts: one_picture(sd, n)
    times = [[one_picture(sd, n) for _,n,sd in parts] for _ in range(rounds)]
    def row(i, model, n):
        low,middle,high = statistics.quantiles([o[i] for o in times], n=4)
        return dict(model=model, steps=n, seconds=round(middle, 4), low=round(low, 4), high=round(high, 4),
            times_faster=round(statistics.median(o[0]/o[i] for o in times), 2))
    return dict(rows=[row(i, model, n) for i,(model,n,_) in enumerate(parts)], rounds=rounds, machine=machine())

def losses(folder):
    "The records of a recipe's stages, in order"
    files = (folder/'1'/'training').glob('*.csv')
    first = lambda p: -int(p.stem.split('-')[0]) if p.stem[0].isdigit() else -10**6
    return {p.stem: [[float(o) for o in line.split(',')] for line in p.read_text().splitlines()] for p in sorted(files, key=first)}

def save_pictures(part, folder, guidance, file):
    "Teacher and students in 50, 8, 4, 2 and 1 steps, from the same noise"
    teacher,how = in_trailing_steps(StableDiffusion.from_pretrained()),dict(seed=0, guidance_scale=guidance, progress=False)
    few = [n for n in counts if n<16]
    drawn = {n: teacher(prompts, num_inference_steps=n, **how) for n in (50,*few)}
    learned = {n: StableDiffusion.from_pretrained(folder/f'{n}')(prompts, num_inference_steps=n, **how) for n in few}
    ims,titles = [],[]
    for i in range(len(prompts)):
        for who,by in (('teacher',drawn), ('student',{50: drawn[50]} | learned)):
            ims += [by[n][i] for n in (50,*few)]
            titles += [f"{'teacher' if n==50 else who}, {n}" for n in (50,*few)]
    show_images(ims, titles, ncols=1+len(few))
    plt.savefig(file)

@call_parse
def main(
    part:str='all', # plain, guided, speed, losses, pictures or all
    students:str='students', # What `python -m miniai.progressive` made
    guided:str='guided-students', # What `python -m miniai.guided` made
    n:int=50, # Prompts of each kind
    seeds:int=3, # Pictures of each prompt
    aside:bool=False, # Measure students on prompts that are set aside, and keep nothing?
    again:bool=False, # Measure what was measured before, too?
    save:bool=False, # Keep the results?
):
    "Measure the distilled students and their teacher"
    torch.set_flush_denormal(True)
    folders,wanted = dict(plain=Path(students), guided=Path(guided)),lambda name: part in (name,'all')
    try: kept = measured('distillation')
    except FileNotFoundError: kept = dict(quality=[])
    kept = dict(kept, command=command(), machine=machine())
    keep = lambda: save_measured('distillation', kept) if save and not aside else None
    if wanted('speed') and not aside:
        kept['speed'] = speed(folders['guided'])
        for row in kept['speed']['rows']: print(*row.values(), flush=True)
    if wanted('losses') and not aside: kept['losses'] = {name: losses(folder) for name,folder in folders.items()}
    keep()
    for name,guidance,file in (('plain',1.,'progressive'), ('guided',None,'guided')):
        if wanted('pictures') and save and not aside: save_pictures(name, folders[name], guidance, f'miniai/measured/{file}.png')
    judge = load_judge()
    for name in filter(wanted, folders):
        if again or aside: kept['quality'] = [r for r in kept['quality'] if r['part']!=name]
        for row in quality(name, folders[name], n, seeds, judge, kept['quality'], aside):
            right = [sum(s['everything'][i] for s in row['seeds']) for i in (0,1)]
            print(name, row['line'], row['sampler'], f"guidance {row['guidance']:g}, {row['evaluations']} evaluations: {right[0]/right[1]:.1%} right, Fréchet {row['frechet']}, "
                f"RMSE {row['rmse']}, diversity {row['diversity']}", flush=True)
            kept['quality'].append(row)
            keep()
