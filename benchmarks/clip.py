"""What the embedded CLIP knows of real pictures of the test split, and what its embeddings do when they are calculated with.

    python benchmarks/clip.py [--save] [--data folder]

Every accuracy is measured with three seeds, which choose garments, places and sizes (and the noise, where pictures are drawn). `--save` keeps the results for `nbs/03_clip.ipynb`."""
import torch
from fastcore.script import call_parse
from miniai.clip import CLIP
from miniai.core import progress_bar, save_measured
from miniai.evaluation import garment_color, background_color, load_judge, to_tensor
from miniai.fashion import *
from miniai.pipeline import StableDiffusion, decode, denoise, encode_text

seeds = [0,1,2]
ways = {'bag': lambda g: [g], 'a bag': lambda g: [with_article(g)],
        'a photo of a bag': lambda g: [f'a photo of {with_article(g)}'],
        'a bag on each background, averaged': lambda g: [f'a photo of {with_article(g)} on {with_article(f"{b} background")}' for b in backgrounds],
        'a bag in each colour, averaged': lambda g: [f'a photo of {with_article(f"{c} {g}")}' for c in colors]}

def share(right): return right.float().mean().item()
def several(measure): return [measure(seed) for seed in progress_bar(seeds)]
def gen(seed): return torch.Generator().manual_seed(seed)

def look(clip, real, held_out, n, seed):
    "Combinations `(n,3)`, and the vectors of a real picture of each"
    rows = combinations(held_out=held_out)
    rows = rows.repeat(-(-n//len(rows)), 1)[:n]
    return rows,clip.image_features(real(rows, gen(seed)))

def averaged(clip, texts): return torch.nn.functional.normalize(clip.text_features(texts).mean(0), dim=0)

def confusion(rows, said, part, names):
    return torch.zeros(len(names), len(names), dtype=torch.long).index_put((rows[:,part],said), torch.ones(len(rows), dtype=torch.long), accumulate=True).tolist()

def zero_shot(clip, real, n=498):
    "How often the right garment is named, by phrasing; and which are confused"
    texts = {way: torch.stack([averaged(clip, phrase(g)) for g in garments]) for way,phrase in ways.items()}
    tables,colored,result = [],[],{way:{} for way in ways}
    for kind,held_out in ('trained on',False),('held out',True):
        seen = [look(clip, real, held_out, n, seed) for seed in seeds]
        for way,t in texts.items(): result[way][kind] = [share((v@t.T).argmax(1)==rows[:,0]) for rows,v in seen]
        rows,v = (torch.cat(o) for o in zip(*seen))
        tables.append(confusion(rows, (v@texts['bag'].T).argmax(1), 0, garments))
        colored.append(confusion(rows, (v@clip.text_features(colors).T).argmax(1), 1, colors))
    return dict(n=n, ways=result, garments=dict(zip(('trained on','held out'), tables)), colors=dict(zip(('trained on','held out'), colored)))

def swaps():
    "Every analogy: (garment, colour), the part that changes, and what it should become"
    for g in range(len(garments)):
        for c in range(len(colors)):
            yield from (((g,c), 'color', (g,k)) for k in range(len(colors)) if k!=c)
            yield from (((g,c), 'garment', (k,c)) for k in range(len(garments)) if k!=g)

def by_part(results): return {part: share(torch.tensor([right for p,right in results if p==part])) for part in ('color','garment')}

def analogies(clip, real, seed, n=1740):
    "'red bag' - 'red' + 'green': is 'green bag' the nearest text, and a green bag the nearest picture? And from a picture on?"
    words = dict(garment=clip.text_features(garments), color=clip.text_features(colors))
    texts = clip.text_features([f'{c} {g}' for g in garments for c in colors]).view(len(garments), len(colors), -1)
    rows,v = look(clip, real, None, n, seed)
    pick = torch.randperm(n, generator=gen(seed))
    found = dict(text=[], picture=[], photo=[], direct=[])
    for (g,c),part,(h,d) in swaps():
        step = words[part][d if part=='color' else h] - words[part][c if part=='color' else g]
        query,right = texts[g,c] + step, lambda i: tuple(rows[i,:2].tolist())==(h,d)
        start = pick[((rows[pick,0]==g)&(rows[pick,1]==c)).nonzero()[0,0]]
        found['text'].append((part, (texts.flatten(0,1)@query).argmax().item()==h*len(colors)+d))
        found['picture'].append((part, right((v@query).argmax())))
        found['photo'].append((part, right((v@(v[start]+step)).argmax())))
        found['direct'].append((part, right((v@texts[h,d]).argmax())))
    return {k: by_part(r) for k,r in found.items()}

def draw(sd, embeddings, seed, steps=15, guidance_scale=3.):
    "A picture (n,3,64,64) for each of `embeddings`"
    shape = (len(embeddings), sd.unet.config.in_channels, *[sd.unet.config.sample_size]*2)
    pictures = []
    for noise,e in zip(torch.randn(shape, generator=gen(seed)).split(25), embeddings.split(25)):
        uncond = encode_text('', sd.tokenizer, sd.text_encoder).expand_as(e)
        *_,last = denoise(noise, e, sd.unet, sd.scheduler, uncond_embeddings=uncond, num_inference_steps=steps, guidance_scale=guidance_scale)
        pictures.append(to_tensor(decode(last.latents, sd.vae)))
    return torch.cat(pictures)

def seen(x, judge): return torch.stack([judge(x).argmax(1), garment_color(x), background_color(x)], 1)

def drawn_analogies(sd, judge, part, seed, n=100):
    "Draw prompt - prompt + prompt, and the prompt that this should equal; how often are both garment and colour right?"
    pick,prompts,want = gen(seed),[],[]
    for _ in range(n):
        g,h = torch.randperm(len(garments), generator=pick)[:2].tolist()
        c,d = torch.randperm(len(colors), generator=pick)[:2].tolist()
        b = next(i for i,name in enumerate(backgrounds) if name not in (colors[c],colors[d]))
        prompts.append([caption(o) for o in ([(g,c,b),(h,c,b),(h,d,b),(g,d,b)] if part=='color' else [(g,c,b),(g,d,b),(h,d,b),(h,c,b)])])
        want.append((g,d,b) if part=='color' else (h,c,b))
    first,minus,plus,direct = (encode_text(list(p), sd.tokenizer, sd.text_encoder) for p in zip(*prompts))
    right = {k: (seen(draw(sd, e, seed), judge)==torch.tensor(want))[:,:2].all(1) for k,e in dict(calculated=first-minus+plus, direct=direct).items()}
    return {k: share(r) for k,r in right.items()}

def skipped(sd, judge, clip_skip, seed):
    "How often garment, colour and background are right in pictures drawn from an earlier layer"
    rows = combinations(held_out=True)
    x = draw(sd, encode_text([caption(r) for r in rows], sd.tokenizer, sd.text_encoder, clip_skip), seed)
    return (seen(x, judge)==rows).float().mean(0).tolist()

@call_parse
def main(
    save:bool=False, # Keep the results in the package
    data:str=None, # Folder with Fashion-MNIST; without it, it is looked for
):
    "Measure the embedded CLIP"
    torch.set_grad_enabled(False)
    images,labels = load_fashion_mnist('test', path=data)
    clip,real,judge,sd = CLIP.from_pretrained(device='cpu'),Pictures(images, labels),load_judge(),StableDiffusion.from_pretrained(device='cpu')
    layers = sd.text_encoder.config.num_hidden_layers
    results = dict(command='python benchmarks/clip.py --save', seeds=seeds, test_images=len(images), machine=f'2 cores of an AMD EPYC, torch {torch.get_num_threads()} thread',
        names=dict(garments=garments, colors=colors), zero_shot=zero_shot(clip, real),
        analogies=several(lambda seed: analogies(clip, real, seed)), analogies_pictures=1740,
        drawn={part: several(lambda seed: drawn_analogies(sd, judge, part, seed)) for part in ('color','garment')}, drawn_n=100,
        clip_skip={skip: several(lambda seed: skipped(sd, judge, skip, seed)) for skip in range(layers+1)}, clip_skip_n=len(combinations(held_out=True)))
    for k in ('zero_shot','analogies','drawn','clip_skip'): print(k, results[k], flush=True)
    if save: print(save_measured('clip', results))
