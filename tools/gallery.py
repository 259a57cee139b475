"""Write nbs/images/failures.png for the README: prompts that go beyond what the embedded model knows, seed 0 for all of them, nothing picked.
(`tools/animation.py` writes the picture at the top.)"""
from pathlib import Path
from miniai.core import image_grid
from miniai.pipeline import StableDiffusion

prompts = ['a photo of a red bag and a blue sneaker', 'a photo of two green bags', 'a photo of a red bag on a red background', 'a photo of a cat',
    'a photo of a white shirt with a red collar', 'a photo of a brown coat on a blue background', 'a photo of a sandal to the left of a bag',
    'a photo of a purple hat on a yellow background']
sd = StableDiffusion.from_pretrained(device='cpu')
picture = image_grid([sd(prompt, seed=0)[0] for prompt in prompts], ncols=len(prompts))
picture.resize((picture.width*3//2, picture.height*3//2)).save(Path(__file__).parent.parent/'nbs/images/failures.png')
