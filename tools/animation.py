"Write nbs/images/denoise.webp: five pictures come out of the same noise, for the README."
from gallery import images, large
from miniai.core import image_grid
from miniai.editing import save_animation
from miniai.pipeline import StableDiffusion, decode

prompts = ['a panda on a pink background', 'a dog to the left of a cat on a green background', 'a castle on a blue background',
    'a burger on a red background', 'a frog on a pink background']
sd = StableDiffusion.from_pretrained(device='cpu')
frames = [large(image_grid(decode(step.latents, sd.vae), ncols=5)) for step in sd.steps(prompts, seed=[42]*5, num_inference_steps=20)]
save_animation(frames + frames[-1:]*8, images/'denoise.webp', fps=6, quality=60)
