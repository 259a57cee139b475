"The VAE beside diffusers': the network, and its two ways with any picture and any source of randomness."
import json, warnings
import diffusers, numpy as np, pytest, torch
from diffusers import StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from hypothesis import given, settings, strategies as st
from PIL import Image
from miniai.clip import to_rgb
from miniai.core import embedded_model
from miniai.pipeline import decode, vae_factor
from miniai.random import WichmannHill
from miniai.vae import *

some = settings(deadline=None, derandomize=True, max_examples=20)

@pytest.fixture(scope='module')
def vae(): return AutoencoderKL.from_pretrained(embedded_model(), 'vae')

def noise(vae, n, seed=0):
    "Latents of `n` pictures of 64 by 64 pixels"
    side = 64//vae_factor(vae)
    return torch.randn(n, vae.config.latent_channels, side, side, generator=torch.Generator().manual_seed(seed))

@pytest.fixture(scope='module')
def images(photos): return photos[:4]

def other_config(blocks=2, channels=4, **kwargs):
    return dict(block_out_channels=(8,)*blocks, norm_num_groups=4, layers_per_block=1, latent_channels=channels,
        down_block_types=('DownEncoderBlock2D',)*blocks, up_block_types=('UpDecoderBlock2D',)*blocks) | kwargs

def other_vae(*args, cls=AutoencoderKL, **kwargs):
    "A VAE of another shape, with random weights"
    torch.manual_seed(0)
    return cls(**other_config(*args, **kwargs)).eval()

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


# The network

def close(ours, theirs, tol=1e-4): return (ours-theirs).abs().max()<=tol*theirs.abs().max()

@st.composite
def configs(draw):
    groups,blocks = draw(st.integers(1,4)),draw(st.integers(1,4))
    widths = [groups*draw(st.integers(2,4)) for _ in range(blocks)]
    flags = {name:draw(st.booleans()) for name in ('mid_block_add_attention','use_quant_conv','use_post_quant_conv')}
    return other_config(blocks, draw(st.integers(1,6)), block_out_channels=widths, norm_num_groups=groups, layers_per_block=draw(st.integers(1,3)),
        in_channels=draw(st.sampled_from([1,3])), out_channels=draw(st.sampled_from([1,3])), **flags)

@pytest.mark.this_machine('parity')
@some
@given(configs(), st.integers(1,3), st.integers(1,5), st.integers(1,5), st.integers(0,10**6))
def test_the_network_is_diffusers(config, n, height, width, seed):
    torch.manual_seed(seed)
    ours,theirs = AutoencoderKL(**config),diffusers.AutoencoderKL(**config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    factor,largest = vae_factor(ours),0
    x = torch.randn(n, config['in_channels'], height*factor+factor-1, width*factor, requires_grad=True) # odd sizes, too
    a,b = ours.encode(x).latent_dist,theirs.encode(x).latent_dist
    for name in ('mean','std','logvar'): assert close(getattr(a, name), getattr(b, name), 1e-5)
    assert close(a.kl(), b.kl(), 1e-4) and close(a.sample(torch.Generator().manual_seed(1)), b.sample(torch.Generator().manual_seed(1)), 1e-5)
    z = torch.randn(n, config['latent_channels'], height, width)
    weights = torch.randn(n, config['out_channels'], height*factor, width*factor)
    pictures = ours.decode(z).sample,theirs.decode(z).sample
    assert close(*pictures, 1e-5)
    for picture,dist in zip(pictures, (a,b)): ((picture*weights).sum() + dist.mean.sum() + dist.logvar.square().sum()).backward()
    theirs_grad = {k:p.grad for k,p in theirs.named_parameters()}
    largest = max(g.abs().max() for g in theirs_grad.values())
    assert all((p.grad-theirs_grad[k]).abs().max()<=1e-4*largest for k,p in ours.named_parameters())
    theirs.load_state_dict(ours.state_dict(), strict=True)

sd15 = dict(block_out_channels=[128,256,512,512], layers_per_block=2, down_block_types=['DownEncoderBlock2D']*4, up_block_types=['UpDecoderBlock2D']*4, sample_size=512)

def test_full_size_has_the_library_s_names_and_shapes():
    with torch.device('meta'): ours,theirs = AutoencoderKL(**sd15),diffusers.AutoencoderKL(**sd15)
    shapes = lambda network: {k:tuple(v.shape) for k,v in network.state_dict().items()}
    assert shapes(ours)==shapes(theirs) and sum(p.numel() for p in ours.parameters())==83_653_863

def test_the_embedded_model_is_read_as_diffusers_reads_it(vae):
    theirs = diffusers.AutoencoderKL.from_pretrained(embedded_model()/'vae').eval()
    x,z = torch.rand(2,3,64,64)*2 - 1,noise(vae, 2)
    with torch.no_grad(): assert close(vae.encode(x).latent_dist.mean, theirs.encode(x).latent_dist.mean) and close(vae.decode(z).sample, theirs.decode(z).sample)

def test_older_files_name_the_attention_otherwise(vae):
    old = {'.to_q.':'.query.', '.to_k.':'.key.', '.to_v.':'.value.', '.to_out.0.':'.proj_attn.'}
    def name(k):
        for a,b in old.items(): k = k.replace(a, b)
        return k
    again = AutoencoderKL(**vae.config)
    again.load_state_dict({name(k):v for k,v in vae.state_dict().items()}, strict=True)
    assert all(torch.equal(v, again.state_dict()[k]) for k,v in vae.state_dict().items())

def test_pictures_and_weights_lie_in_memory_as_always(vae):
    with torch.no_grad(): picture = vae.decode(noise(vae, 2)).sample
    assert all(x.is_contiguous() for x in (picture, *vae.state_dict().values()))

@pytest.mark.parametrize('entry', [dict(act_fn='relu'), dict(latents_mean=[0.]*4), dict(down_block_types=['AttnDownEncoderBlock2D']), dict(encoder_only=True)])
def test_what_is_not_implemented_is_refused_by_name(entry):
    name,value = next(iter(entry.items()))
    with pytest.raises(ValueError, match=value[0] if name.endswith('types') else name): AutoencoderKL(**entry)

def test_the_library_draws_the_same_with_our_vae(vae, sd):
    pipe = StableDiffusionPipeline(**vars(sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    draw = lambda: pipe('a red cat', generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type='np').images
    wanted = draw()
    pipe.vae = vae
    assert np.abs(draw()-wanted).max()<1/255


# Beside diffusers

def test_latents_are_diffusers(vae, images):
    for given in images[0],images: assert close(encode_image(given, vae), by_diffusers(given, vae))

def test_samples_are_diffusers(vae, images):
    assert close(encode_image(images, vae, seeds(1)[0]), by_diffusers(images, vae, seeds(1)[0]))
    assert close(encode_image(images, vae, seeds(len(images))), by_diffusers(images, vae, seeds(len(images))))

@some
@given(st.integers(5,80), st.integers(5,80), st.integers(1,5), st.integers(1,5))
def test_resized_pictures_are_diffusers(w, h, rows, columns):
    vae = other_vae(3)
    height,width = rows*4,columns*4
    assert close(encode_image(photo((w,h)), vae, height=height, width=width), by_diffusers(photo((w,h)), vae, height=height, width=width))

def test_pictures_are_diffusers(vae, images):
    latents = noise(vae, 3)
    with torch.no_grad(): pixels = vae.decode(latents/vae.config.scaling_factor).sample
    theirs = VaeImageProcessor().postprocess(pixels)
    for a,b in zip(decode(latents, vae), theirs, strict=True): assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max()<=1


# Any VAE

@pytest.mark.parametrize('blocks', [1,2,3,4])
@pytest.mark.parametrize('channels', [3,4,16])
def test_vaes_of_other_shapes(blocks, channels):
    vae = other_vae(blocks, channels, scaling_factor=.5)
    factor = 2**(blocks-1)
    assert vae_factor(vae)==factor
    latents = encode_image([photo((24,16)), photo((24,16), seed=1)], vae)
    assert latents.shape==(2, channels, 16//factor, 24//factor)
    assert close(latents, by_diffusers([photo((24,16)), photo((24,16), seed=1)], vae))
    assert [im.size for im in decode(latents, vae)]==[(24,16)]*2
    if factor>1:
        with pytest.raises(ValueError, match=f'multiple of {factor}'): encode_image(photo((25,16)), vae)

def test_a_vae_that_names_no_scaling_factor(tmp_path):
    other_vae(cls=diffusers.AutoencoderKL).save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    del config['scaling_factor']
    (tmp_path/'config.json').write_text(json.dumps(config))
    loaded = AutoencoderKL.from_pretrained(tmp_path).eval()
    with torch.no_grad(): mean = loaded.encode(torch.zeros(1,3,16,16)).latent_dist.mean
    assert close(encode_image(torch.full((3,16,16), .5), loaded), mean*.18215)

def test_a_shift_is_undone():
    vae,plain = other_vae(shift_factor=.3, scaling_factor=.7),other_vae(scaling_factor=.7)
    assert close(encode_image(photo((16,16)), vae), encode_image(photo((16,16)), plain) - .3*.7)
    latents = encode_image(photo((16,16)), vae)
    assert image_psnr(decode(latents, vae)[0], decode(latents + .3*.7, plain)[0])>50

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(images, dtype):
    half,full = (AutoencoderKL.from_pretrained(embedded_model(), 'vae', dtype=d) for d in (dtype,torch.float32))
    latents = encode_image(images, half, seeds(1)[0])
    assert latents.dtype==dtype and torch.isfinite(latents).all()
    assert close(encode_image(images, half).float(), encode_image(images, full), .05)
    assert all(image_psnr(a, b)>30 for a,b in zip(decode(encode_image(images, full), half), decode(encode_image(images, full), full)))

def test_numbers_that_are_none_are_told():
    vae = other_vae()
    with pytest.warns(UserWarning, match='float32'): decode(torch.full((1,4,4,4), float('nan')), vae)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        decode(torch.zeros(1,4,4,4), vae)


# Any picture

@pytest.mark.parametrize('mode', ['RGB','L','P','1','RGBA','LA','CMYK'])
def test_modes(vae, mode):
    image = photo((64,64)).convert('L').convert(mode) if mode=='LA' else photo((64,64)).convert(mode)
    assert close(encode_image(image, vae), encode_image(to_rgb(image), vae))

def test_sixteen_bits(vae):
    grey = np.asarray(photo((64,64), 'L'))
    deep = Image.fromarray(grey.astype(np.uint16)*257)
    assert close(encode_image(deep, vae), encode_image(Image.fromarray(grey), vae))

def test_tensors_and_arrays(vae, images):
    wanted = encode_image(images, vae)
    arrays = [np.asarray(image) for image in images]
    floats = torch.stack([torch.tensor(a).permute(2,0,1)/255 for a in arrays])
    for form in (arrays, np.stack(arrays), (floats*255).round().to(torch.uint8), floats, list(floats)): assert close(encode_image(form, vae), wanted)
    finer = (floats + 2e-3).clamp(max=1) # Half of 1/255
    assert not close(encode_image(finer, vae), wanted, 5e-4)
    assert close(encode_image(floats[0], vae, height=32, width=48), encode_image(images[0], vae, height=32, width=48))

def test_each_picture_is_what_it_is_alone(vae, images):
    together = encode_image(images, vae, seeds(len(images)))
    for i,image in enumerate(images): assert close(encode_image(image, vae, seeds(len(images))[i]), together[i:i+1])
    for alone,among in zip([decode(z[None], vae)[0] for z in together], decode(together, vae)):
        assert np.abs(np.asarray(alone).astype(int)-np.asarray(among)).max()<=1

def test_our_own_noise(vae, images):
    mean = encode_image(images[0], vae)
    one,two,again = (encode_image(images[0], vae, WichmannHill(seed)) for seed in (1,2,1))
    assert close(one, again) and not close(one, two, 1e-3)
    assert .2 < (one-mean).std()/(encode_image(images[0], vae, seeds(1)[0])-mean).std() < 5

@pytest.mark.parametrize('image,error,match', [
    ('cat.png', TypeError, 'cat.png'), (None, TypeError, 'None'), ([], TypeError, 'images are'), ([3], TypeError, 'not int'),
    (torch.rand(3,64,64)*2 - 1, ValueError, '0 to 1'), (torch.full((3,64,64), float('nan')), ValueError, '0 to 1'),
    ([photo((64,64)), photo((64,32))], ValueError, 'one size'), (photo((62,64)), ValueError, 'multiple of 4'), (photo((3,3)), ValueError, 'multiple of 4'),
    (Image.new('F', (64,64)), ValueError, 'mode F')])
def test_what_is_no_picture(vae, image, error, match):
    with pytest.raises(error, match=match): encode_image(image, vae)

def test_sizes_that_do_not_fit_even_when_asked(vae):
    with pytest.raises(ValueError, match='multiple of 4'): encode_image(photo((64,64)), vae, height=63)


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
