"Every image its own: image i of a batch is the one that its seed gives alone, whatever the batch, the order and the scheduler"
import random

import diffusers, numpy as np, pytest, torch

import miniai.scheduler
from miniai.core import *
from miniai.pipeline import *

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers
names = ['DDIM', 'PNDM', 'LMSDiscrete', 'EulerDiscrete', 'EulerAncestralDiscrete', 'DPMSolverMultistep', 'DDPM']
stochastic = ['EulerAncestralDiscrete', 'DDPM']
texts = ['', 'a cat', 'red', 'a purple castle on a grey background', 'a drawing of a green ghost', 'yellow star, white background',
    'something purple on a black background', 'trousers '*20, 'Ein Schloss, bitte! \N{EUROPEAN CASTLE}']


def scheduler_like(library, name, scheduler):
    "The scheduler called `name`, of diffusers or ours, for the noise of another"
    return getattr(library, f'{name}Scheduler').from_config({**scheduler.config, 'skip_prk_steps':True})


def random_batch(i):
    "Prompts, negative prompts, seeds, and what all images have in common"
    rng = random.Random(i)
    n = rng.randint(2, 5)
    images = [(rng.choice(texts), rng.choice(texts[:4]), rng.choice([rng.randrange(5), rng.randrange(2**63)])) for _ in range(n)]
    common = dict(num_inference_steps=rng.randint(1, 5), guidance_scale=rng.choice([1, 2, 3, 7.5]))
    return rng, images, common


@pytest.mark.filterwarnings('ignore:the prompt is longer')
@pytest.mark.parametrize('i', range(14)) # Seven schedulers of diffusers, then the same seven of ours
def test_every_image_is_its_own(tiny, i):
    rng,images,common = random_batch(i)
    library = [diffusers, miniai.scheduler][i//len(names)]
    tiny.scheduler = scheduler_like(library, names[i%len(names)], tiny.scheduler)

    def draw(images):
        prompts,negatives,seeds = map(list, zip(*images))
        return [np.asarray(im).astype(int) for im in tiny(prompts, negative_prompt=negatives, seed=seeds, **common)]

    batch = draw(images)
    for image,expected in zip(images, batch):
        assert np.abs(draw([image])[0] - expected).max() <= 1, image
    order = rng.sample(range(len(images)), len(images)) + [rng.randrange(len(images))]
    for j,im in zip(order, draw([images[j] for j in order])): assert np.abs(im - batch[j]).max() <= 1, (order,j)


@pytest.mark.parametrize('library', [diffusers, miniai.scheduler], ids=['diffusers','ours'])
@pytest.mark.parametrize('name', names)
def test_another_seed_or_prompt_is_another_image(tiny, name, library):
    "Pictures that are all alike would pass, too"
    tiny.scheduler = scheduler_like(library, name, tiny.scheduler)
    a,b,c = (np.asarray(im).astype(int) for im in tiny(['a red cat','a red cat','a blue dog'], seed=[1,2,1], num_inference_steps=4))
    assert min(np.abs(a-b).max(), np.abs(a-c).max(), np.abs(b-c).max()) > 1


@pytest.mark.parametrize('library', [diffusers, miniai.scheduler], ids=['diffusers','ours'])
@pytest.mark.parametrize('name', stochastic)
def test_the_noise_on_the_way_is_the_images_own(tiny, name, library):
    "With the same first noise, and another source later, a stochastic scheduler draws something else: the sources do matter"
    tiny.scheduler = scheduler_like(library, name, tiny.scheduler)
    size = tiny.unet.config.sample_size
    latents = torch.randn(1, tiny.unet.config.in_channels, size, size, generator=torch.Generator().manual_seed(0)).repeat(3,1,1,1)
    sources = lambda *seeds: [torch.Generator().manual_seed(s) for s in seeds]
    run = dict(latents=latents, num_inference_steps=4)
    a,b,c = (np.asarray(im).astype(int) for im in tiny(['a red cat']*3, generator=sources(5,6,5), **run))
    assert np.abs(a-b).max() > 1 and np.abs(a-c).max() <= 1
