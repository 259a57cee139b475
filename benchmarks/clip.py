"""What the embedded CLIP knows of composed pictures, and what its embeddings do when they are calculated with.

    python benchmarks/clip.py [--save] [--n 480] [--seeds 3] [--steps 15]

Every accuracy is measured with several seeds, which choose drawings, places and sizes (and the noise, where pictures are drawn). `--save` keeps the results for `nbs/03_clip.ipynb`."""
import torch
from collections import Counter
from common import command, machine
from fastcore.script import call_parse
from miniai.clip import CLIP
from miniai.core import progress_bar, save_measured
from miniai.emoji import *
from miniai.evaluation import describe, load_judge, sentence, some_rows, to_tensor
from miniai.pipeline import StableDiffusion, decode, denoise, encode_text

names = ['cat','owl','fish','crab','pizza','car','rocket','castle','guitar','star'] # of one token each
pairs = [(g,c) for g in range(len(names)) for c in range(own)]
ways = {'cat': lambda g: [g], 'a cat': lambda g: [with_article(g)],
        'a picture of a cat': lambda g: [f'a picture of {with_article(g)}'],
        'a cat on each background, averaged': lambda g: [f'{with_article(g)} on {with_article(b)} background' for b in colors],
        'a cat in each colour, averaged': lambda g: [with_article(f'{c} {g}') for c in colors]}

def share(right): return right.float().mean().item()
def gen(seed): return torch.Generator().manual_seed(seed)
def single(thing, color, background): return [things.index(thing), color, nothing, own, 0, background]

def averaged(clip, texts): return torch.nn.functional.normalize(clip.text_features(texts).mean(0), dim=0)

def zero_shot(clip, judge, real, n, seeds):
    "How often the right thing is named, by phrasing, half of them tinted; what the judge says; and what is confused"
    texts = {way: torch.stack([averaged(clip, phrase(thing)) for thing in things]) for way,phrase in ways.items()}
    result = dict(n=n, ways={way:{} for way in ways}, judge={}, confused={})
    for kind,held in ('trained on',False),('held out',True):
        rows = torch.cat([some_rows('one', n//2, held), some_rows('tinted', n//2, held)])
        seen = [real(rows, gen(seed)) for seed in seeds]
        vectors = [clip.image_features(x) for x in progress_bar(seen)]
        for way,t in texts.items(): result['ways'][way][kind] = [share((v@t.T).argmax(1)==rows[:,0]) for v in vectors]
        result['judge'][kind] = [share(judge(x).argmax(1)==rows[:,0]) for x in seen]
        said = torch.cat([(v@texts['cat'].T).argmax(1) for v in vectors]).tolist()
        wrong = Counter((a,b) for a,b in zip(rows[:,0].tolist()*len(seeds), said) if a!=b)
        result['confused'][kind] = [[things[a], things[b], times] for (a,b),times in wrong.most_common(12)]
    return result

def swaps():
    "Every analogy: (thing, colour), the part that changes, and what it should become"
    for g,c in pairs:
        yield from (((g,c), 'color', (g,k)) for k in range(own) if k!=c)
        yield from (((g,c), 'thing', (k,c)) for k in range(len(names)) if k!=g)

def by_part(results): return {part: share(torch.tensor([right for p,right in results if p==part])) for part in ('color','thing')}

def analogies(clip, real, seed, each=3):
    "'red car' - 'red' + 'green': is 'green car' the nearest text, and a green car the nearest picture? And from a picture on?"
    words = dict(thing=clip.text_features(names), color=clip.text_features(colors))
    texts = clip.text_features([f'{colors[c]} {names[g]}' for g,c in pairs]).view(len(names), own, -1)
    shown = pairs*each
    other = torch.randint(1, own, (len(shown),), generator=gen(seed)).tolist()
    v = clip.image_features(real(torch.tensor([single(names[g], c, (c+o)%own) for (g,c),o in zip(shown, other)]), gen(seed)))
    found = dict(text=[], picture=[], photo=[], direct=[])
    for (g,c),part,(h,d) in swaps():
        step = words[part][d if part=='color' else h] - words[part][c if part=='color' else g]
        query,right = texts[g,c] + step, lambda i: shown[i]==(h,d)
        start = v[shown.index((g,c))]
        found['text'].append((part, (texts.flatten(0,1)@query).argmax().item()==h*own+d))
        found['picture'].append((part, right((v@query).argmax())))
        found['photo'].append((part, right((v@(start+step)).argmax())))
        found['direct'].append((part, right((v@texts[h,d]).argmax())))
    return {k: by_part(r) for k,r in found.items()}

def draw(sd, embeddings, seed, steps, guidance_scale=4.):
    "A picture (n,3,64,64) for each of `embeddings`"
    shape = (len(embeddings), sd.unet.config.in_channels, *[sd.unet.config.sample_size]*2)
    pictures = []
    for noise,e in zip(torch.randn(shape, generator=gen(seed)).split(25), embeddings.split(25)):
        uncond = encode_text('', sd.tokenizer, sd.text_encoder).expand_as(e)
        *_,last = denoise(noise, e, sd.unet, sd.scheduler, uncond_embeddings=uncond, num_inference_steps=steps, guidance_scale=guidance_scale)
        pictures.append(to_tensor(decode(last.latents, sd.vae)))
    return torch.cat(pictures)

def right_in(x, rows, judge):
    "bool (n,3): thing, tint and background of pictures of one thing"
    return (describe(judge, x, rows[:,2]<nothing)==rows)[:,[0,1,5]]

def drawn_analogies(sd, judge, part, seed, n, steps):
    "Draw prompt - prompt + prompt, and the prompt that this should equal; how often are both thing and colour right?"
    pick,quadruples = gen(seed),[]
    for _ in range(n):
        g,h = torch.randperm(len(names), generator=pick)[:2].tolist()
        c,d,b = torch.randperm(own, generator=pick)[:3].tolist()
        four = [(g,c),(h,c),(h,d),(g,d)] if part=='color' else [(g,c),(g,d),(h,d),(h,c)] # the last is first - second + third
        quadruples.append([single(names[i], k, b) for i,k in four])
    encode = lambda rows: encode_text([sentence(row) for row in rows], sd.tokenizer, sd.text_encoder)
    first,minus,plus,direct = map(encode, zip(*quadruples))
    want = torch.tensor([rows[-1] for rows in quadruples])
    return {k: share(right_in(draw(sd, e, seed, steps), want, judge)[:,:2].all(1)) for k,e in dict(calculated=first-minus+plus, direct=direct).items()}

def skipped(sd, judge, clip_skip, seed, n, steps):
    "How often thing, tint and background are right in pictures drawn from an earlier layer"
    rows = some_rows('tinted', n, held=True)
    x = draw(sd, encode_text([sentence(row) for row in rows.tolist()], sd.tokenizer, sd.text_encoder, clip_skip), seed, steps)
    return right_in(x, rows, judge).float().mean(0).tolist()

@call_parse
def main(
    save:bool=False, # Keep the results in the package
    n:int=480, # Pictures that CLIP looks at for each seed; a fifth as many are drawn
    seeds:int=3, # How many times
    steps:int=15, # Of the scheduler
):
    "Measure the embedded CLIP"
    torch.set_grad_enabled(False)
    clip,real,judge,sd = CLIP.from_pretrained(device='cpu'),Pictures(),load_judge(),StableDiffusion.from_pretrained(device='cpu')
    layers,seeds,few = sd.text_encoder.config.num_hidden_layers,list(range(seeds)),n//5
    several = lambda measure: [measure(seed) for seed in progress_bar(seeds)]
    results = dict(command=command(), machine=machine(), seeds=seeds,
        names=names, zero_shot=zero_shot(clip, judge, real, n, seeds), analogies=several(lambda seed: analogies(clip, real, seed)), analogies_pictures=3*len(pairs),
        drawn={part: several(lambda seed: drawn_analogies(sd, judge, part, seed, few, steps)) for part in ('color','thing')}, drawn_n=few,
        clip_skip={skip: several(lambda seed: skipped(sd, judge, skip, seed, few, steps)) for skip in range(layers+1)}, clip_skip_n=few, num_inference_steps=steps)
    for k in ('zero_shot','analogies','drawn','clip_skip'): print(k, results[k], flush=True)
    if save: print(save_measured('clip', results))
