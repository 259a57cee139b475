"""Draw the README's pictures and the model card's sheet with the embedded model: the prompts of hero.png are those that it does best, the seeds are in order.

    python tools/gallery.py

(`tools/animation.py` writes the picture at the top of the README.)"""
from pathlib import Path
import torch
from fastcore.script import call_parse
from miniai.core import embedded_model, image_grid
from miniai.emoji import captions, random_rows
from miniai.pipeline import StableDiffusion, decode

images = Path(__file__).parent.parent/'nbs/images'
first = 'a panda on a pink background'
best = ['a strawberry on a white background', 'a purple dress on a yellow background', 'a burger on a red background',
    'a dog to the left of a cat on a green background', 'a rainbow above a tree on a white background', 'a hat above a ghost on a purple background',
    'a red cat to the left of a blue dog on a yellow background', 'a panda on a pink background', 'a crown above a pig on a green background', 'a frog on a pink background']
beyond = ['three cats', 'a cat riding a bicycle', 'a small dog to the left of a large dog', 'a dog in a car', 'a wombat', 'a cat, a dog and an owl',
    'a sad robot', 'a turquoise apple', 'an apple that is not red', 'the word cake']

def large(picture): return picture.resize((picture.width*3//2, picture.height*3//2))

@call_parse
def main():
    "Write nbs/images/hero.png, nbs/images/failures.png, and samples.png in the model's folder"
    sd = StableDiffusion.from_pretrained(device='cpu')
    noise = [decode(step.latents, sd.vae)[0] for step in sd.steps(first, seed=42, num_inference_steps=28)]
    large(image_grid(noise[::3] + sd(best, seed=0, progress=False), ncols=10)).save(images/'hero.png')
    large(image_grid(sd(beyond, seed=0, progress=False), ncols=10)).save(images/'failures.png')
    generator = torch.Generator().manual_seed(80)
    texts,_ = captions(random_rows(80, generator), generator)
    sheet = [sd(texts[i:i+16], seed=i, num_inference_steps=25, progress=False) for i in range(0, 80, 16)]
    image_grid(sum(sheet, []), ncols=10).save(embedded_model()/'samples.png')
    (embedded_model()/'samples.txt').write_text('\n'.join(texts) + '\n')
