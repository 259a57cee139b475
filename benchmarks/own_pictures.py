"""What the embedded model learns from 20 captioned pictures of a new thing, and what it forgets.

    python benchmarks/own_pictures.py [--save]

The pictures are those of notebook 12. What a generated picture shows is named by its nearest prototype: the mean CLIP features of composed pictures of one thing,
for each of the 120 things and the new one. `--save` keeps the figures for the notebook, and a sheet of pictures before and after."""
import json, tempfile, time, torch
from pathlib import Path
from accelerate.utils import set_seed
from common import command, machine
from fastcore.script import call_parse
from miniai.clip import CLIP
from miniai.core import embedded_model, image_grid, save_measured
from miniai.emoji import *
from miniai.own import StableDiffusion
from miniai.training import EmojiData, FolderData, fine_tune

own_color = len(colors)
root = Path(__file__).parents[1]
shown,new = ['white','green','blue','orange','brown','grey'],['yellow','purple','pink','red','black']
sheet = ['a traffic light on a yellow background', 'a traffic light on a pink background', 'a traffic light to the left of a cat',
    'a traffic light', 'a cat', 'a red apple on a green background', 'a dog above a car', 'a light bulb']


def of_notebook(*ids):
    "What these cells of notebook 12 define"
    from PIL import Image, ImageDraw
    names = dict(globals(), Image=Image, ImageDraw=ImageDraw)
    cells = json.loads((root/'nbs/12_training.ipynb').read_text(encoding='utf-8'))['cells']
    for cell in cells:
        if cell['id'] in ids: exec(''.join(cell['source']), names)
    return names


@torch.no_grad()
def prototypes(clip, data, own, n):
    "A direction in CLIP's space for each thing, and for the new one"
    generator = torch.Generator().manual_seed(99)
    means = []
    for thing in range(nothing):
        rows = torch.tensor([[thing,own_color,nothing,own_color,0,0]]).repeat(n, 1)
        rows[:,5] = torch.randint(len(colors), (n,), generator=generator)
        means.append(clip.image_features(data(rows, generator)).mean(0))
    return torch.stack([*means, clip.image_features(own.pictures).mean(0)])


@torch.no_grad()
def named_right(sd, clip, means, prompts, wanted, steps, backgrounds=None):
    "The share of pictures that show what's wanted and, if they shall have one, the background"
    images = [im for i in range(0, len(prompts), 40) for im in sd(prompts[i:i+40], seed=i, num_inference_steps=steps, progress=False)]
    named = (clip.image_features(images)@means.T).argmax(1)
    right = (named==torch.as_tensor(wanted)).float().mean().item()
    if backgrounds is None: return right
    corners = torch.stack([torch.tensor(im.getpixel((2,2)))/255 for im in images])
    seen = torch.cdist(corners, palette).argmin(1)
    return right,(seen==torch.tensor([colors.index(b) for b in backgrounds])).float().mean().item()


@call_parse
def main(
    model:str=None, # Folder of the model; without it, the embedded one
    steps:int=300, # Of fine-tuning
    num_inference_steps:int=25, # A picture
    n:int=40, # Pictures of the new thing
    examples:int=20, # Real pictures a prototype is the mean of
    save:bool=False, # Keep the figures and the pictures
):
    "Fine-tune with and without rehearsal, and measure"
    torch.set_flush_denormal(True)
    folder,data = Path(model or embedded_model('emoji')),EmojiData()
    draw = of_notebook('traffic-light','traffic-lights')['traffic_lights']
    results = dict(command=command(), machine=machine(), steps=steps, rows=[])
    with tempfile.TemporaryDirectory() as d:
        draw(f'{d}/own')
        draw(f'{d}/test', seed=1)
        own,test,clip = FolderData(f'{d}/own'),FolderData(f'{d}/test'),CLIP.from_pretrained(folder)
        means = prototypes(clip, data, test, examples)
        rows,sheets = torch.tensor([[i,own_color,nothing,own_color,0,i%own_color] for i in range(nothing)]),[]
        real = torch.cat([data(rows, torch.Generator().manual_seed(5)), own.pictures])
        names = torch.tensor([*range(nothing), *[nothing]*len(own.texts)])
        results['real'] = ((clip.image_features(real)@means.T).argmax(1)==names).float().mean().item()
        for name,rehearsal in ('before',None), ('after',.5), ('after, without rehearsal',0.):
            if rehearsal is not None:
                set_seed(42)
                begin = time.perf_counter()
                fine_tune(own, Path(f'{d}/{name}'), Path(f'{d}/{name}-checkpoints'), folder, steps, rehearsal=rehearsal)
            sd = StableDiffusion.from_pretrained(folder if rehearsal is None else f'{d}/{name}')
            backgrounds = [new[i%len(new)] for i in range(n)]
            prompts = [f'a traffic light on {with_article(b)} background' for b in backgrounds]
            light,background = named_right(sd, clip, means, prompts, [nothing]*n, num_inference_steps, backgrounds)
            old = named_right(sd, clip, means, [with_article(o) for o in things], range(nothing), num_inference_steps)
            minutes = 0 if rehearsal is None else (time.perf_counter()-begin)/60
            results['rows'].append(dict(model=name, new_thing=light, its_background=background, old_things=old, minutes=minutes))
            print(results['rows'][-1], flush=True)
            sheets += sd(sheet, seed=0, num_inference_steps=num_inference_steps, progress=False)
        picture = image_grid(sheets, ncols=len(sheet))
    if save:
        save_measured('own_pictures', results)
        picture.save(root/'miniai/measured/own_pictures.png')
    return results
