"""Does the network heed which of two things comes first? Before and after `misplaced`.

    python benchmarks/placing.py before=FOLDER,after=embedded [--save]

For each model, given as label=folder of its weights ('embedded' is the one that comes with the package):
* how much worse it predicts the noise when the caption is changed, and for what share of the pictures,
* how much of the attention to each thing's name lies in the other thing's half, and where it lies on average,
* how often a linear probe of the text encoder's outputs tells the first thing from the second,
* how many drawn pictures of two things have both, and how many of these have them where the caption says.
Then how long a training step takes with and without this part of the loss."""
import random, time
from contextlib import nullcontext
import torch
from fastcore.script import call_parse

from miniai import training
from miniai.clip import CLIPTextModel
from miniai.core import embedded_model, save_measured
from miniai.emoji import Pictures, nothing, phrases, random_rows, relations, with_article
from miniai.evaluation import describe, draw, load_judge, marks, sentence, some_rows
from miniai.loop import batch_generator
from miniai.pipeline import StableDiffusion, encode_text
from miniai.placing import halves, misplaced, named, watched
from pipeline import machine

seed = lambda i: torch.Generator().manual_seed(i)
timesteps = [400,500,600,700]


def changes(rows):
    "The rows that the changed captions describe; None is an empty caption"
    other,axis = rows.clone(),rows.clone()
    other[:,0] = (rows[:,0]+7)%nothing
    axis[:,4] = 1-axis[:,4]
    return {'another thing':other, 'the other axis':axis, 'swapped':rows[:,[2,3,0,1,4,5]], 'empty':None}


def texts(rows, n): return ['']*n if rows is None else [sentence(row) for row in rows.tolist()]


@torch.no_grad()
def noise_errors(sd, rows, latents):
    "By timestep: the error with the true captions, and by change how much larger it is, and for what share of the pictures"
    found,n = {},len(rows)
    encode = lambda o: encode_text(texts(o, n), sd.tokenizer, sd.text_encoder)
    true,changed = encode(rows),{name: encode(o) for name,o in changes(rows).items()}
    for t in timesteps:
        noise = torch.randn(latents.shape, generator=seed(t))
        noisy = sd.scheduler.add_noise(latents, noise, torch.tensor([t]))
        error = lambda e: (sd.unet(noisy, torch.tensor(t), e).sample - noise).square().mean((1,2,3))
        base = error(true)
        worse = {name: error(e)-base for name,e in changed.items()}
        found[t] = dict(error=base.mean().item(), **{name: [o.mean().item(), (o>0).float().mean().item()] for name,o in worse.items()})
    return found


@torch.no_grad()
def attention(sd, rows, latents):
    "By timestep: the share of a word's attention in the wrong half; and the mean map (8,8) of the first thing's name, side by side"
    said,words = rows,named(texts(rows, len(rows)), rows, sd.tokenizer).float()
    embeddings = encode_text(texts(rows, len(rows)), sd.tokenizer, sd.text_encoder)
    wrong,maps = {},[]
    for t in timesteps:
        noisy = sd.scheduler.add_noise(latents, torch.randn(latents.shape, generator=seed(t)), torch.tensor([t]))
        with watched(sd.unet) as shares: sd.unet(noisy, torch.tensor(t), embeddings)
        things = [s@words.mT for s in shares]                     # (n, places, 2) of each layer
        things = torch.stack([o/o.sum(1, keepdim=True) for o in things]).mean(0)
        wrong[t] = (things*(1-halves(said[:,4], round(things.shape[1]**.5)))).sum(1).mean().item()
        maps.append(things[said[:,4]==0,:,0].mean(0))
    first = torch.stack(maps).mean(0)
    return dict(wrong=wrong, first=first.unflatten(0, (round(len(first)**.5),-1)).tolist())


@torch.no_grad()
def probe(sd, n):
    "How often a linear function of the embeddings of a thing's name says whether it's the first (on the left, or on top)"
    rows = random_rows(n, seed(2), pairs=1.)
    captions,second_first = [],torch.rand(n, generator=seed(3))<.5 # Either wording equally often
    for row,turn in zip(rows.tolist(), second_first.tolist()):
        a,b = (with_article(o) for o in phrases(row, random.Random(0))[:2])
        relation = random.Random(len(captions)).choice(relations[row[4]][turn])
        captions.append(f'{b} {relation} {a}' if turn else f'{a} {relation} {b}')
    words = named(captions, rows, sd.tokenizer).float()                       # (n,2,tokens)
    x = words@encode_text(captions, sd.tokenizer, sd.text_encoder).float()/words.sum(2, keepdim=True)
    x = torch.cat([x, torch.ones(n,2,1)], 2)                                  # (n,2,width+1), with a bias
    y = torch.tensor([1.,-1.]).expand(n, 2)
    train = 3*n//4
    weights = torch.linalg.lstsq(x[:train].flatten(0,1), y[:train].flatten()[:,None]).solution
    return (((x[train:]@weights)[...,0]>0)==(y[train:]>0)).float().mean().item()


def drawn(sd, n, steps):
    "How many pictures of two things have both, and how many of these as the caption says"
    rows = some_rows('two', n)
    pictures = draw(sd, texts(rows, n), num_inference_steps=steps)
    right = marks(rows, describe(load_judge(), pictures, torch.ones(n, dtype=torch.bool)))
    return dict(n=n, both=right['things'].sum().item(), placed=right['relation'].sum().item())


def step_times(steps, batch_size=8):
    "Seconds of a training step with this part of the loss and without it, the best of some"
    text_encoder = CLIPTextModel.from_pretrained(embedded_model(), 'text_encoder')
    sd = StableDiffusion.from_pretrained(embedded_model(), device='cpu')
    rows = random_rows(64, seed(0))
    latents = torch.randn(64, 4, 16, 16, generator=seed(1))
    loss = training.UNetLoss(training.new_unet(), text_encoder, sd.tokenizer, latents, rows, batch_size=batch_size)
    parts = {'with': (watched,misplaced), 'without': (lambda unet: nullcontext([]),lambda *args: 0.)}
    times = {name: [] for name in parts}
    for i in range(steps):
        for name,(training.watched,training.misplaced) in parts.items():
            start = time.perf_counter()
            loss(batch_generator(i)).backward()
            times[name].append(time.perf_counter() - start)
            loss.zero_grad()
    training.watched,training.misplaced = watched,misplaced
    return {name: min(o) for name,o in times.items()}


@call_parse
def main(
    models:str, # Label=folder of each, separated by commas
    n:int=256, # Composed pictures
    n_probed:int=2000, # Captions, a quarter of them to test the probe with
    n_drawn:int=100, # Drawn pictures
    steps:int=25, # Of sampling
    timed:int=10, # Training steps to time
    save:bool=False, # Keep the results for the notebook?
):
    "Measure what the network makes of the order of two things"
    rows = random_rows(n, seed(0), pairs=1.)
    images,results = Pictures()(rows, seed(1)),{}
    for label,folder in (o.split('=') for o in models.split(',')):
        sd = StableDiffusion.from_pretrained(embedded_model() if folder=='embedded' else folder, device='cpu')
        with torch.no_grad(): latents = torch.cat([sd.vae.encode(x*2 - 1).latent_dist.mean for x in images.split(32)])
        latents = latents*sd.vae.config.scaling_factor
        results[label] = dict(errors=noise_errors(sd, rows, latents), attention=attention(sd, rows, latents), probe=probe(sd, n_probed), drawn=drawn(sd, n_drawn, steps))
        print(label, results[label], flush=True)
    seconds = step_times(timed)
    print(seconds)
    if save: save_measured('placing', dict(command="python benchmarks/placing.py before=FOLDER,after=embedded --save", machine=machine(), n=n, steps=steps,
        timesteps=timesteps, models=results, seconds=seconds))
