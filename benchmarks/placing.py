"""Does the network heed which of two things comes first? Before and after `misplaced`.

    python benchmarks/placing.py before=FOLDER,after=embedded [--save]

For each model, given as label=folder of its weights ('embedded' is the one that comes with the package):
* how much worse it predicts the noise when the caption is changed, and for what share of the pictures,
* how much of the attention to each thing's name lies in the other thing's half, and where it lies on average,
* how often a linear probe of the text encoder's outputs tells which of the two a name belongs to,
* how many drawn pictures of two things have both, and how many of these have them where the caption says.
Then how long a training step takes with and without this part of the loss."""
import time
from contextlib import nullcontext
from types import SimpleNamespace
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
from common import command, machine

seed = lambda i: torch.Generator().manual_seed(i)
timesteps = [400,500,600,700]


def backwards(row):
    "The caption of `sentence`, beginning with the second thing: to the right of, below"
    a,b,background = (with_article(o) for o in phrases(row, SimpleNamespace(random=lambda: 1.)))
    return f'{b} {relations[row[4]][1][0]} {a} on {background} background'


wordings = {'left of':sentence, 'right of':backwards}


def captions(rows, wording=sentence): return [wording(row) for row in rows.tolist()]


def changes(rows):
    "True captions, in either wording, and wrong ones by name"
    other,axis,swapped = rows.clone(),rows.clone(),rows[:,[2,3,0,1,4,5]]
    other[:,0] = (rows[:,0]+7)%nothing
    axis[:,4] = 1-axis[:,4]
    wrong = {'another thing':captions(other), 'the other axis':captions(axis), 'swapped':captions(swapped), 'empty':['']*len(rows)}
    return [(captions(rows),wrong), (captions(rows, backwards),{'swapped, right of':captions(swapped, backwards)})]


@torch.no_grad()
def noise_errors(sd, rows, latents):
    "By timestep and change: how much larger the error is with the wrong captions, and for what share of the pictures it is"
    found = {t: {} for t in timesteps}
    for t in timesteps:
        noise = torch.randn(latents.shape, generator=seed(t))
        noisy = sd.scheduler.add_noise(latents, noise, torch.tensor([t]))
        def error(texts): return (sd.unet(noisy, torch.tensor(t), encode_text(texts, sd.tokenizer, sd.text_encoder)).sample - noise).square().mean((1,2,3))
        for true,wrong in changes(rows):
            base = error(true)
            for name,texts in wrong.items():
                growth = error(texts) - base
                found[t][name] = [growth.mean().item(), (growth>0).float().mean().item()]
    return found


@torch.no_grad()
def attention(sd, rows, latents):
    "By timestep: the share of a word's attention in the wrong half; and the mean map (8,8) of the first thing's name, side by side"
    words = named(captions(rows), rows, sd.tokenizer).float()
    embeddings = encode_text(captions(rows), sd.tokenizer, sd.text_encoder)
    wrong,maps = {},[]
    for t in timesteps:
        noisy = sd.scheduler.add_noise(latents, torch.randn(latents.shape, generator=seed(t)), torch.tensor([t]))
        with watched(sd.unet) as shares: sd.unet(noisy, torch.tensor(t), embeddings)
        things = [s@words.mT for s in shares]                     # (n, places, 2) of each layer
        things = torch.stack([o/o.sum(1, keepdim=True) for o in things]).mean(0)
        wrong[t] = (things*(1-halves(rows[:,4], round(things.shape[1]**.5)))).sum(1).mean().item()
        maps.append(things[rows[:,4]==0,:,0].mean(0))
    first = torch.stack(maps).mean(0)
    return dict(wrong=wrong, first=first.unflatten(0, (round(len(first)**.5),-1)).tolist())


@torch.no_grad()
def probe(sd, n):
    "How often a linear function of the embeddings of a thing's name says which it is: the first of the row, the first of the caption"
    rows = random_rows(n, seed(2), pairs=1.)
    turned = torch.rand(n, generator=seed(3))<.5 # Either wording equally often
    texts = [(backwards if o else sentence)(row) for row,o in zip(rows.tolist(), turned.tolist())]
    words = named(texts, rows, sd.tokenizer).float()                       # (n,2,tokens)
    x = words@encode_text(texts, sd.tokenizer, sd.text_encoder)/words.sum(2, keepdim=True)
    x = torch.cat([x, torch.ones(n,2,1)], 2)                               # (n,2,width+1), with a bias
    first_in_row = torch.tensor([True,False]).expand(n, 2)
    first_said = first_in_row!=turned[:,None]
    train,test = slice(3*n//4),slice(3*n//4, n)
    def right(y):
        weights = torch.linalg.lstsq(x[train].flatten(0,1), y[train].reshape(-1,1)*2. - 1).solution
        return ((x[test]@weights)[...,0]>0)==y[test]
    share = lambda o: o.float().mean().item()
    side = right(first_in_row)
    return {'side, mentioned first':share(side[first_said[test]]), 'side, mentioned second':share(side[~first_said[test]]),
            'order':share(right(first_said))}


def drawn(sd, n, steps):
    "By wording: how many pictures of two things have both, and how many of these as the caption says"
    rows,found = some_rows('two', n),{}
    for name,wording in wordings.items():
        pictures = draw(sd, captions(rows, wording), num_inference_steps=steps)
        right = marks(rows, describe(load_judge(), pictures, torch.ones(n, dtype=torch.bool)))
        found[name] = dict(n=n, both=right['things'].sum().item(), placed=right['relation'].sum().item())
    return found


def step_times(steps, batch_size=8):
    "Seconds of a training step with this part of the loss and without it, the best of some"
    text_encoder = CLIPTextModel.from_pretrained(embedded_model(), 'text_encoder')
    sd = StableDiffusion.from_pretrained(embedded_model(), device='cpu')
    rows = random_rows(64, seed(0))
    latents = torch.randn(64, 4, 16, 16, generator=seed(1))
    loss = training.UNetLoss(training.new_unet(), text_encoder, sd.tokenizer, latents, rows, batch_size=batch_size)
    nowhere = torch.zeros(batch_size, 2, sd.tokenizer.model_max_length, dtype=torch.bool)
    parts = {'with': (named,watched,misplaced), 'without': (lambda *args: nowhere,lambda unet: nullcontext([]),lambda *args: 0.)}
    times = {name: [] for name in parts}
    for i in range(steps):
        for name,(training.named,training.watched,training.misplaced) in parts.items():
            start = time.perf_counter()
            loss(batch_generator(i)).backward()
            times[name].append(time.perf_counter() - start)
            loss.zero_grad()
    training.named,training.watched,training.misplaced = parts['with']
    return {name: min(o) for name,o in times.items()}


def measure(sd, n, n_probed, n_drawn, steps):
    "All that's measured of one model"
    rows = random_rows(n, seed(0), pairs=1.)
    images = Pictures()(rows, seed(1))
    with torch.no_grad(): latents = torch.cat([sd.vae.encode(x*2 - 1).latent_dist.mean for x in images.split(32)])
    latents = latents*sd.vae.config.scaling_factor
    return dict(errors=noise_errors(sd, rows, latents), attention=attention(sd, rows, latents), probe=probe(sd, n_probed), drawn=drawn(sd, n_drawn, steps))


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
    results = {}
    for label,folder in (o.split('=') for o in models.split(',')):
        sd = StableDiffusion.from_pretrained(embedded_model() if folder=='embedded' else folder, device='cpu')
        results[label] = measure(sd, n, n_probed, n_drawn, steps)
        print(label, results[label], flush=True)
    seconds = step_times(timed)
    print(seconds)
    if save: save_measured('placing', dict(command=command(), machine=machine(), n=n, steps=steps,
        timesteps=timesteps, models=results, seconds=seconds))
