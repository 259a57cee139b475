"The VAE's two ways beside diffusers', with any picture, any VAE and any source of randomness."
import json, warnings
from types import SimpleNamespace
import numpy as np, pytest, torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from hypothesis import given, settings, strategies as st
from PIL import Image
from miniai.clip import real_pictures, to_rgb
from miniai.core import embedded_model, measured
from miniai.pipeline import decode
from miniai.random import WichmannHill
from miniai.vae import *

some = settings(deadline=None, derandomize=True, max_examples=40)

@pytest.fixture(scope='module')
def vae(): return AutoencoderKL.from_pretrained(embedded_model()/'vae').eval()

@pytest.fixture(scope='module')
def images(): return real_pictures()[0][::20]

def other_vae(blocks=2, channels=4, **kwargs):
    "A VAE of another shape, with random weights"
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8,)*blocks, norm_num_groups=4, layers_per_block=1, latent_channels=channels,
        down_block_types=('DownEncoderBlock2D',)*blocks, up_block_types=('UpDecoderBlock2D',)*blocks, **kwargs).eval()

def photo(size, mode='RGB', seed=0):
    "Noise with large patches in it"
    values = np.random.default_rng(seed).integers(0, 256, (9,7,3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.BICUBIC).convert(mode)

@torch.no_grad()
def by_diffusers(images, vae, generator=None, **kwargs):
    "Latents as diffusers' own pipelines make them"
    pixels = VaeImageProcessor(vae_scale_factor=vae_factor(vae)).preprocess(images, **kwargs)
    mode = 'sample' if generator else 'argmax'
    if isinstance(generator, list): latents = torch.cat([retrieve_latents(vae.encode(p[None]), g) for p,g in zip(pixels, generator)])
    else: latents = retrieve_latents(vae.encode(pixels), generator, mode)
    return latents*vae.config.scaling_factor

def seeds(n): return [torch.Generator().manual_seed(i) for i in range(n)]


# Beside diffusers

def test_latents_are_diffusers(vae, images):
    assert torch.allclose(encode_image(images[0], vae), by_diffusers(images[0], vae), atol=1e-4)
    assert torch.allclose(encode_image(images, vae), by_diffusers(images, vae), atol=1e-4)

def test_samples_are_diffusers(vae, images):
    assert torch.allclose(encode_image(images, vae, seeds(1)[0]), by_diffusers(images, vae, seeds(1)[0]), atol=1e-4)
    assert torch.allclose(encode_image(images, vae, seeds(len(images))), by_diffusers(images, vae, seeds(len(images))), atol=1e-4)

@some
@given(st.integers(5,80), st.integers(5,80), st.integers(1,5), st.integers(1,5))
def test_resized_pictures_are_diffusers(w, h, rows, columns):
    vae = other_vae(3)
    height,width = rows*4,columns*4
    assert torch.allclose(encode_image(photo((w,h)), vae, height=height, width=width), by_diffusers(photo((w,h)), vae, height=height, width=width), atol=1e-4)

def test_pictures_are_diffusers(vae, images):
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))*1.5
    with torch.no_grad(): pixels = vae.decode(latents/vae.config.scaling_factor).sample
    theirs = VaeImageProcessor().postprocess(pixels)
    assert all(np.array_equal(a, b) for a,b in zip(decode_latents(latents, vae), theirs, strict=True))

def test_pictures_are_the_pipeline_s(vae):
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert all(np.array_equal(a, b) for a,b in zip(decode_latents(latents, vae), decode(latents, vae), strict=True))


# Any VAE

@pytest.mark.parametrize('blocks', [1,2,3,4])
@pytest.mark.parametrize('channels', [3,4,16])
def test_vaes_of_other_shapes(blocks, channels):
    vae = other_vae(blocks, channels, scaling_factor=.5)
    factor = 2**(blocks-1)
    assert vae_factor(vae)==factor
    latents = encode_image([photo((24,16)), photo((24,16), seed=1)], vae)
    assert latents.shape==(2, channels, 16//factor, 24//factor)
    assert torch.allclose(latents, by_diffusers([photo((24,16)), photo((24,16), seed=1)], vae), atol=1e-4)
    assert [im.size for im in decode_latents(latents, vae)]==[(24,16)]*2
    if factor>1:
        with pytest.raises(ValueError, match=f'multiples of {factor}'): encode_image(photo((25,16)), vae)

def test_a_vae_that_names_no_scaling_factor(tmp_path):
    vae = other_vae()
    vae.save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    del config['scaling_factor']
    (tmp_path/'config.json').write_text(json.dumps(config))
    loaded = AutoencoderKL.from_pretrained(tmp_path).eval()
    with torch.no_grad(): mean = loaded.encode(torch.zeros(1,3,16,16)).latent_dist.mean
    assert torch.allclose(encode_image(torch.full((3,16,16), .5), loaded), mean*.18215, atol=1e-6)
    bare = SimpleNamespace(config=SimpleNamespace(), decode=lambda z: SimpleNamespace(sample=z[:,:3]))
    pixel = np.asarray(decode_latents(torch.full((1,4,2,2), .18215*.5), bare)[0])[0,0]
    assert pixel.tolist()==[191]*3

def test_a_shift_is_undone():
    vae,plain = other_vae(shift_factor=.3, scaling_factor=.7),other_vae(scaling_factor=.7)
    assert torch.allclose(encode_image(photo((16,16)), vae), encode_image(photo((16,16)), plain) - .3*.7, atol=1e-5)
    latents = encode_image(photo((16,16)), vae)
    assert image_psnr(decode_latents(latents, vae)[0], decode_latents(latents + .3*.7, plain)[0])>50

def test_a_vae_without_a_distribution():
    torch.manual_seed(0)
    vae = AutoencoderTiny(encoder_block_out_channels=(8,)*4, decoder_block_out_channels=(8,)*4, num_encoder_blocks=(1,)*4, num_decoder_blocks=(1,)*4).eval()
    latents = encode_image(photo((32,16)), vae)
    assert latents.shape==(1,4,2,4) and decode_latents(latents, vae)[0].size==(32,16)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(images, dtype):
    half,full = (AutoencoderKL.from_pretrained(embedded_model()/'vae', dtype=d).eval() for d in (dtype,torch.float32))
    latents = encode_image(images, half, seeds(1)[0])
    assert latents.dtype==dtype and torch.isfinite(latents).all()
    assert (encode_image(images, half).float() - encode_image(images, full)).abs().mean()<.03
    assert all(image_psnr(a, b)>30 for a,b in zip(decode_latents(encode_image(images, full), half), decode_latents(encode_image(images, full), full)))

def test_numbers_that_are_none_are_told():
    vae = other_vae()
    with pytest.warns(UserWarning, match='float32'): decode_latents(torch.full((1,4,4,4), float('nan')), vae)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        decode_latents(torch.zeros(1,4,4,4), vae)


# Any picture

@pytest.mark.parametrize('mode', ['RGB','L','P','1','RGBA','LA','CMYK'])
def test_modes(vae, mode):
    image = photo((64,64)).convert('L').convert(mode) if mode=='LA' else photo((64,64)).convert(mode)
    assert torch.equal(encode_image(image, vae), encode_image(to_rgb(image), vae))

def test_sixteen_bits(vae):
    grey = np.asarray(photo((64,64), 'L'))
    deep = Image.fromarray(grey.astype(np.uint16)*257)
    assert torch.equal(encode_image(deep, vae), encode_image(Image.fromarray(grey), vae))

def test_tensors_and_arrays(vae, images):
    wanted = encode_image(images, vae)
    arrays = [np.asarray(image) for image in images]
    floats = torch.stack([torch.tensor(a).permute(2,0,1)/255 for a in arrays])
    for form in (arrays, np.stack(arrays), (floats*255).round().to(torch.uint8), floats, list(floats)): assert torch.allclose(encode_image(form, vae), wanted, atol=1e-5)
    finer = (floats + 1e-3).clamp(max=1)
    assert not torch.equal(encode_image(finer, vae), wanted)
    assert torch.allclose(encode_image(floats[0], vae, height=32, width=48), encode_image(images[0], vae, height=32, width=48), atol=1e-5)

def test_each_picture_is_what_it_is_alone(vae, images):
    together = encode_image(images, vae, seeds(len(images)))
    for i,image in enumerate(images): assert torch.allclose(encode_image(image, vae, seeds(len(images))[i]), together[i:i+1], atol=1e-5)
    for alone,among in zip([decode_latents(z[None], vae)[0] for z in together], decode_latents(together, vae)):
        assert np.abs(np.asarray(alone).astype(int)-np.asarray(among)).max()<=1

def test_our_own_noise(vae, images):
    mean = encode_image(images[0], vae)
    one,two,again = (encode_image(images[0], vae, WichmannHill(seed)) for seed in (1,2,1))
    assert torch.equal(one, again) and not torch.equal(one, two)
    assert .2 < (one-mean).std()/(encode_image(images[0], vae, seeds(1)[0])-mean).std() < 5

@pytest.mark.parametrize('image,error,match', [
    ('bag.png', TypeError, 'not str'), (None, TypeError, 'NoneType'), ([], ValueError, 'empty'), ([3], TypeError, 'not int'),
    (torch.rand(3,64,64)*2 - 1, ValueError, 'x/2'), (torch.full((3,64,64), float('nan')), ValueError, '0 to 1'),
    ([photo((64,64)), photo((64,32))], ValueError, 'one size'), (photo((60,64)), ValueError, 'height=64, width=64'), (photo((3,3)), ValueError, 'height=8, width=8'),
    (Image.new('F', (64,64)), ValueError, 'mode F')])
def test_what_is_no_picture(vae, image, error, match):
    with pytest.raises(error, match=match): encode_image(image, vae)

@pytest.mark.parametrize('kwargs', [dict(height=0), dict(width=-8), dict(height=64.), dict(width='64')])
def test_sizes_that_are_none(vae, kwargs):
    with pytest.raises(ValueError, match='whole number of pixels'): encode_image(photo((64,64)), vae, **kwargs)

def test_sizes_that_do_not_fit_even_when_asked(vae):
    with pytest.raises(ValueError, match='multiples of 8'): encode_image(photo((64,64)), vae, height=63)

def test_as_many_generators_as_pictures(vae, images):
    with pytest.raises(ValueError, match='2 generators'): encode_image(images, vae, seeds(2))

@pytest.mark.parametrize('latents,error', [(torch.zeros(4,8,8), ValueError), (torch.zeros(1,3,8,8), ValueError), (np.zeros((1,4,8,8)), TypeError), (None, TypeError)])
def test_what_is_no_latents(vae, latents, error):
    with pytest.raises(error, match='latents'): decode_latents(latents, vae)


# Measures and walks

@some
@given(st.integers(0,255), st.integers(0,255))
def test_psnr_of_plain_pictures(a, b):
    found = image_psnr(Image.new('L', (8,8), a), Image.new('L', (8,8), b))
    assert found==float('inf') if a==b else found==pytest.approx(20*np.log10(255/abs(a-b)))

ts = st.floats(0, 1)
vectors = st.integers(0, 10**6).map(lambda seed: torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)))

@some
@given(vectors, vectors, ts)
def test_slerp(a, b, t):
    unit = lambda x: x/x.flatten(1).norm(dim=1).view(-1,1,1)
    a,b = unit(a),unit(b)
    mid = slerp(a, b, t)
    angle = lambda x,y: (x*y).flatten(1).sum(1).clamp(-1,1).double().acos()
    assert torch.allclose(mid.flatten(1).norm(dim=1), torch.ones(3), atol=1e-4)
    assert torch.allclose(angle(a, mid), t*angle(a, b), atol=2e-3) and torch.allclose(mid, slerp(b, a, 1-t), atol=1e-5)
    assert torch.allclose(slerp(a[1:2], b[1:2], t), mid[1:2], atol=1e-6)
    assert torch.allclose(slerp(a, b, 0.), a, atol=1e-6) and torch.allclose(slerp(a, b, 1.), b, atol=1e-6)

@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_slerp_where_there_is_no_arc(dtype):
    a = torch.randn(1, 8, dtype=dtype)
    for b in (a, -a, a*3, torch.zeros_like(a)):
        mid = slerp(a, b, .25)
        assert mid.dtype==dtype and torch.isfinite(mid).all()
    assert torch.allclose(slerp(a, a*3, .5), a*2, rtol=1e-2)
    with pytest.raises(ValueError, match='one shape'): slerp(a, a[:,:4], .5)

@pytest.mark.parametrize('spherical', [False,True])
def test_walks_keep_their_ends(spherical):
    a,b = torch.randn(2, 1, 4, 8, 8)
    steps = walk(a, b, 5, spherical)
    assert steps.shape==(5,4,8,8) and torch.allclose(steps[:1], a) and torch.allclose(steps[-1:], b, atol=1e-6)
    with pytest.raises(ValueError, match='at least 2'): walk(a, b, 1)

def test_what_was_measured_is_what_one_sees(vae):
    images,found = real_pictures()[0],measured('vae')['results']
    latents = encode_image(images, vae)
    live = np.mean([image_psnr(a, b) for a,b in zip(images, decode_latents(latents, vae))])
    assert abs(live - np.mean(found['vae']))<1 and min(found['vae'])>max(found['components'])>max(found['smaller'])
    assert latents.std().item()==pytest.approx(np.mean(found['scaled']), abs=.05)
