"What `miniai.scheduler` promises beyond its notebook: the library's trajectories and pictures, no hidden state, and plain words about mistakes"
import copy, inspect, json, math, re

import diffusers, numpy as np, pytest, torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from hypothesis import assume, given, settings, strategies as st
from scipy import integrate

from miniai import scheduler as ours
from miniai.core import *
from miniai.pipeline import *
from miniai.scheduler import *

names = ['DDPM', 'DDIM', 'PNDM', 'LMSDiscrete', 'EulerDiscrete', 'EulerAncestralDiscrete', 'DPMSolverMultistep']
multistep = ['PNDM', 'LMSDiscrete', 'DPMSolverMultistep']
in_sigma = ['LMSDiscrete', 'EulerDiscrete', 'EulerAncestralDiscrete', 'DPMSolverMultistep']
prompt = 'a photo of a red ankle boot on a blue background'
sd15 = dict(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear')
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers
every = pytest.mark.parametrize('name', names)


@pytest.fixture(scope='module', autouse=True)
def quiet_library():
    before = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    yield
    diffusers.logging.set_verbosity(before)


def cls(name, library=ours): return getattr(library, f'{name}Scheduler')

def noise(shape=(2,3,4,4), seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def network(x, t, prediction_type='epsilon'):
    "Something smooth that depends on all it is told"
    return torch.tanh(x*(.5 + float(t)/1000) + math.cos(float(t)/150))

def trajectory(scheduler, n, shape=(2,3,4,4), seed=1, dtype=torch.float32, **kwargs):
    "Every sample of a run"
    if 'generator' in inspect.signature(scheduler.step).parameters: kwargs['generator'] = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(n)
    x = noise(shape).to(dtype)*scheduler.init_noise_sigma
    xs = []
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **kwargs).prev_sample
        xs.append(x)
    return torch.stack(xs)

def relative(a, b): return ((a.double()-b.double()).norm()/b.double().norm()).item()


# The library's trajectories

@st.composite
def runs(draw, name):
    "A configuration, a number of steps and what `step` is told"
    pick = lambda *values: draw(st.sampled_from(values))
    power = lambda low,high: 10**draw(st.floats(low, high))
    total = pick(1000,1000,1000,200,37)
    config = dict(num_train_timesteps=total, beta_schedule=pick('linear','scaled_linear','squaredcos_cap_v2'),
        beta_start=power(-5,-2.5), beta_end=power(-2.5,-1.3), timestep_spacing=pick('leading','trailing','linspace'),
        steps_offset=pick(0,1,1), prediction_type=pick('epsilon','v_prediction','sample'))
    if name in ('PNDM','EulerAncestralDiscrete'): config['prediction_type'] = pick('epsilon','v_prediction')
    flags = dict(DDPM='clip_sample', DDIM='clip_sample set_alpha_to_one', PNDM='skip_prk_steps set_alpha_to_one', LMSDiscrete='use_karras_sigmas',
        EulerDiscrete='use_karras_sigmas', EulerAncestralDiscrete='', DPMSolverMultistep='use_karras_sigmas lower_order_final euler_at_final')
    config |= {flag: draw(st.booleans()) for flag in flags[name].split()}
    if name in ('EulerDiscrete','DPMSolverMultistep'): config['final_sigmas_type'] = pick('zero','sigma_min')
    if name=='DPMSolverMultistep': config['solver_order'] = pick(2,2,2,1)
    if name=='DDPM': config['variance_type'] = pick('fixed_small','fixed_small_log','fixed_large')
    if name not in ('PNDM','LMSDiscrete'): config['rescale_betas_zero_snr'] = pick(False,False,False,True)
    kwargs = dict(eta=pick(0.,0.,.4,1.), use_clipped_model_output=draw(st.booleans())) if name=='DDIM' else {}
    if name=='LMSDiscrete': kwargs = dict(order=pick(4,4,2,1))
    many = draw(st.integers(0, 199 if name=='LMSDiscrete' else 29))==13
    return config, draw(st.integers(1, total if many else min(total, 5 if name=='LMSDiscrete' else 15))), kwargs


def library_errs(name, config, n):
    "Why the library has no answer here that could be compared, if so"
    total,spacing,order2,karras = config['num_train_timesteps'],config['timestep_spacing'],name=='DPMSolverMultistep',config.get('use_karras_sigmas')
    first = n*(total//(n+1)) + config['steps_offset'] if order2 else (n-1)*(total//n) + config['steps_offset']
    beyond,last = spacing=='leading' and first>=total,first==total-1 if spacing=='leading' else spacing=='trailing' or n>1
    if spacing=='trailing' and len(np.arange(total, 0, -total/n))>n: return "rounding adds a timestep, -1, which it takes for the noisiest"
    if beyond and name in ('DDPM','DDIM','PNDM'): return "IndexError: the first timestep is beyond the last"
    if beyond and name in ('LMSDiscrete','DPMSolverMultistep') and not karras: return "nan: the first two noise levels are equal"
    if spacing!='trailing' and order2 and n==total and not karras: return "nan: of one timestep more than there are, two are equal"
    if name=='PNDM' and not config['skip_prk_steps'] and n<4: return "ValueError: Runge-Kutta steps need four timesteps"
    if name in ('DDPM','DDIM') and config['rescale_betas_zero_snr'] and config['prediction_type']=='epsilon' and last:
        return "a division by zero where nothing of the picture is left"
    if order2 and karras and n>1:
        scheduler = cls(name, diffusers)(**config)
        scheduler.set_timesteps(n)
        if scheduler.timesteps[0]==scheduler.timesteps[1]: return "IndexError: of two equal timesteps it begins with the second"


@every
def test_trajectories_are_the_librarys(name):
    worst = []

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(runs(name))
    def check(run):
        config,n,kwargs = run
        assume(not library_errs(name, config, n))
        mine,theirs = (trajectory(cls(name, library)(**config), n, shape=(1,2,2,2), **kwargs) for library in (ours,diffusers))
        assert mine.isfinite().all()
        # with fresh noise, the library takes the root of a rounding error, which may be below zero
        if name=='EulerAncestralDiscrete' or kwargs.get('eta'): assume(theirs.isfinite().all())
        worst.append(relative(mine, theirs))
        assert worst[-1]<=1e-4

    check()
    assert len(worst)>=500


@every
@pytest.mark.parametrize('n', [999,1000])
def test_as_many_steps_as_there_are_timesteps(name, n):
    config = dict(timestep_spacing='linspace' if name!='DPMSolverMultistep' else 'trailing')
    if name=='LMSDiscrete': config,n = config | dict(num_train_timesteps=100),n-900 # the library integrates numerically, and slowly
    mine,theirs = (trajectory(cls(name, library)(**sd15, **config), n, shape=(1,1,2,2)) for library in (ours,diffusers))
    assert len(mine)==len(theirs)>=n
    assert relative(mine, theirs)<=1e-4


@every
def test_where_the_library_errs_ours_goes_on_or_says_why(name):
    trailing = dict(timestep_spacing='trailing')
    for n,config in (122,trailing), (100,dict(use_karras_sigmas=True)), (3,trailing | dict(beta_schedule='squaredcos_cap_v2')):
        config = {k:v for k,v in config.items() if k in inspect.signature(cls(name)).parameters}
        scheduler = cls(name)(**{**sd15, **config}, **(dict(skip_prk_steps=True) if name=='PNDM' else {}))
        xs = trajectory(scheduler, n)
        assert xs.isfinite().all() and len(xs)==n+(name=='PNDM') and (scheduler.timesteps>=0).all()
    for n in 999,1000:
        leading = cls(name)(**sd15, timestep_spacing='leading', steps_offset=1)
        if name.startswith('Euler') or n==999 and name!='DPMSolverMultistep': assert trajectory(leading, n, shape=(1,2)).isfinite().all()
        else:
            with pytest.raises(ValueError, match='take fewer'): leading.set_timesteps(n)


@every
def test_the_state_of_a_new_scheduler_is_the_librarys(name):
    for config in {}, sd15, dict(beta_schedule='squaredcos_cap_v2', num_train_timesteps=50), dict(trained_betas=[.1,.2,.3], num_train_timesteps=3):
        mine,theirs = (cls(name, library)(**config) for library in (ours,diffusers))
        assert mine.order==theirs.order and mine.init_noise_sigma==theirs.init_noise_sigma and len(mine)==len(theirs)
        for key in 'betas','alphas','alphas_cumprod': assert torch.equal(getattr(mine, key), getattr(theirs, key))
        if theirs.timesteps is not None: assert mine.timesteps.tolist()==theirs.timesteps.tolist()


@every
@pytest.mark.parametrize('kind', ['epsilon','v_prediction'])
def test_noise_is_added_as_the_library_does(name, kind):
    x,eps,t = noise((3,4,2,2)),noise((3,4,2,2), 1),torch.tensor([0,500,999])
    mine,theirs = (cls(name, library)(**sd15, prediction_type=kind) for library in (ours,diffusers))
    # before set_timesteps, the library's DPM-Solver has its noise levels the wrong way round
    if name=='DPMSolverMultistep': theirs = diffusers.DDPMScheduler(**sd15)
    assert relative(mine.add_noise(x, eps, t), theirs.add_noise(x, eps, t))<1e-6
    theirs = cls(name, diffusers)(**sd15, prediction_type=kind)
    for s in mine,theirs: s.set_timesteps(7)
    t = mine.timesteps[[1,5,4]]
    assert t.tolist()==theirs.timesteps[[1,5,4]].tolist()
    assert relative(mine.add_noise(x, eps, t), theirs.add_noise(x, eps, t))<1e-6
    if name in ('DDPM','DDIM'): assert relative(mine.get_velocity(x, eps, t), theirs.get_velocity(x, eps, t))<1e-6


@given(st.lists(st.floats(.01, 50), min_size=1, max_size=4, unique_by=lambda x: round(x, 2)), st.floats(.01, 50))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_multistep_weights_are_the_integrals(nodes, end):
    nodes = sorted(nodes)
    for k,w in zip(nodes, multistep_weights(nodes, nodes[0], end), strict=True):
        exact = integrate.quad(lambda x: math.prod((x-o)/(k-o) for o in nodes if o!=k), nodes[0], end)[0]
        assert w==pytest.approx(exact, rel=1e-6, abs=1e-8)


# The surface

@every
def test_keywords_and_defaults_are_the_librarys(name):
    mine,theirs = ({k:p.default for k,p in inspect.signature(cls(name, library)).parameters.items()} for library in (ours,diffusers))
    assert mine==theirs
    mine,theirs = ({k:p.default for k,p in inspect.signature(cls(name, library).step).parameters.items()} for library in (ours,diffusers))
    churn = {'s_churn','s_tmin','s_tmax','s_noise'}
    assert {k:v for k,v in theirs.items() if k not in churn and (k!='variance_noise' or name=='DDIM')}.items()<=mine.items()


@every
def test_positional_arguments_are_the_librarys(name):
    mine,theirs = (cls(name, library)(500, .001, .01, 'scaled_linear') for library in (ours,diffusers))
    assert {k:v for k,v in mine.config.items() if k[0]!='_'}=={k:v for k,v in theirs.config.items() if k[0]!='_'}
    assert cls(name).from_config(mine.config).config.beta_end==.01 # the library forgets here what was not given by name


@every
def test_a_configuration_comes_from_files_and_goes_to_files(name, tmp_path):
    folder = embedded_model()
    mine,theirs = (cls(name, library).from_pretrained(folder, subfolder='scheduler') for library in (ours,diffusers))
    assert {k:v for k,v in mine.config.items() if k[0]!='_'}=={k:v for k,v in theirs.config.items() if k[0]!='_'}
    assert mine.config.beta_end==.02 and mine.config['steps_offset']==1
    mine.save_pretrained(tmp_path)
    back = cls(name, diffusers).from_pretrained(tmp_path)
    assert {k:v for k,v in back.config.items() if k[0]!='_'}=={k:v for k,v in theirs.config.items() if k[0]!='_'}
    assert relative(trajectory(cls(name).from_pretrained(tmp_path), 5), trajectory(mine, 5))==0


@every
@pytest.mark.parametrize('other', names)
def test_exchanging_schedulers_keeps_the_configuration(name, other):
    for start in {}, sd15, dict(prediction_type='v_prediction', timestep_spacing='trailing', steps_offset=1):
        there = [cls(other, library).from_config(cls(name, library)(**start).config, rescale_betas_zero_snr=False) for library in (ours,diffusers)]
        back = [cls(name, library).from_config(s.config) for library,s in zip((ours,diffusers), there)]
        for mine,theirs in (there,back): assert {k:v for k,v in mine.config.items() if k[0]!='_'}=={k:v for k,v in theirs.config.items() if k[0]!='_'}
    mixed = cls(other, diffusers).from_config(cls(name)(**sd15).config)
    assert mixed.config.beta_start==sd15['beta_start']


def test_configurations_of_unknown_schedulers_serve_where_they_can():
    unipc = diffusers.UniPCMultistepScheduler(**sd15)
    dpm = DPMSolverMultistepScheduler.from_config(unipc.config)
    library = diffusers.DPMSolverMultistepScheduler.from_config(unipc.config)
    assert relative(trajectory(dpm, 8), trajectory(library, 8))<1e-5
    assert DDIMScheduler.from_config({**sd15, 'an_unknown_entry':3}).config.beta_start==sd15['beta_start']


@pytest.mark.parametrize('name,entry', [('DDPM',dict(thresholding=True)), ('DDIM',dict(thresholding=True)),
    ('DDPM',dict(variance_type='learned_range')), ('DDPM',dict(beta_schedule='sigmoid')), ('PNDM',dict(prediction_type='sample')),
    ('LMSDiscrete',dict(use_beta_sigmas=True)), ('EulerDiscrete',dict(use_exponential_sigmas=True)), ('EulerDiscrete',dict(sigma_max=20.)),
    ('EulerDiscrete',dict(interpolation_type='log_linear')), ('EulerDiscrete',dict(timestep_type='continuous')),
    *[('DPMSolverMultistep',entry) for entry in (dict(thresholding=True), dict(use_lu_lambdas=True), dict(algorithm_type='sde-dpmsolver++'),
        dict(solver_order=3), dict(solver_type='heun'), dict(lambda_min_clipped=-5.1), dict(use_flow_sigmas=True), dict(variance_type='learned'),
        dict(prediction_type='flow_prediction'))]])
def test_options_that_would_change_the_picture_are_refused(name, entry, tmp_path):
    (key,value), = entry.items()
    with pytest.raises(ValueError, match=re.escape(f'{key} is {value!r}; {name}Scheduler takes')): cls(name).from_config({**sd15, **entry})
    (tmp_path/'scheduler_config.json').write_text(json.dumps({'_class_name':f'{name}Scheduler', **entry}))
    with pytest.raises(ValueError, match=f'{key} is'): cls(name).from_pretrained(tmp_path)


@every
@pytest.mark.parametrize('config,match', [(dict(beta_schedule='cosine'), "beta_schedule is 'cosine'; .* takes 'linear' or"),
    (dict(prediction_type='noise'), "prediction_type is 'noise'"), (dict(timestep_spacing='even'), "timestep_spacing is 'even'"),
    (dict(beta_start=0), 'beta_start is 0'), (dict(beta_end=1.), 'beta_end is 1.0'), (dict(beta_start=float('nan')), 'beta_start is nan'),
    (dict(beta_end='0.02'), "beta_end is '0.02'"), (dict(num_train_timesteps=0), 'num_train_timesteps is 0'),
    (dict(num_train_timesteps=10.), 'whole number'), (dict(steps_offset=-1), 'steps_offset is -1'),
    (dict(trained_betas=[.1,.2]), 'trained_betas has 2 entries, num_train_timesteps is 1000'),
    (dict(trained_betas=[.1,1.2], num_train_timesteps=2), 'between 0 and 1')])
def test_configurations_that_cannot_be_meant(name, config, match):
    with pytest.raises(ValueError, match=match): cls(name)(**config)

@every
def test_keywords_that_do_not_exist(name):
    with pytest.raises(TypeError, match='beta_strat'): cls(name)(beta_strat=.1)

@every
def test_runs_that_cannot_be_meant(name):
    s = cls(name)(**sd15, **(dict(skip_prk_steps=True) if name=='PNDM' else {}))
    with pytest.raises(ValueError, match='call set_timesteps first'): s.step(noise(), 999, noise())
    for n in 0,-1,1001:
        with pytest.raises(ValueError, match='1 to 1000'): s.set_timesteps(n)
    for n in 2.,'2',None,True:
        with pytest.raises(TypeError, match='whole number'): s.set_timesteps(n)
    s.set_timesteps(5)
    for t in 17,-1,1000,torch.tensor(17):
        with pytest.raises(ValueError, match="none of this run's"): s.step(noise(), t, noise())
    with pytest.raises(ValueError): s.add_noise(noise(), noise(), torch.tensor([1234]))
    with pytest.raises(ValueError): s.add_noise(noise(), noise(), torch.tensor([-1]))

def test_other_mistakes():
    with pytest.raises(ValueError, match='give 4 or more'): PNDMScheduler().set_timesteps(3)
    ddim = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing='trailing')
    ddim.set_timesteps(5)
    with pytest.raises(ValueError, match="needs 'v_prediction'"): ddim.step(noise(), 999, noise())
    with pytest.raises(ValueError, match='eta is 2'): ddim.step(noise(), 799, noise(), eta=2)
    both = dict(generator=torch.Generator(), variance_noise=noise())
    with pytest.raises(ValueError, match='give one of them'): ddim.step(noise(), 799, noise(), eta=1, **both)
    with pytest.raises(ValueError, match='1 generators for 2'): ddim.step(noise(), 799, noise(), eta=1, generator=[torch.Generator()])
    lms = LMSDiscreteScheduler()
    lms.set_timesteps(5)
    with pytest.raises(ValueError, match='order is 5'): lms.step(noise(), lms.timesteps[0], noise(), order=5)


# No hidden state

@every
def test_set_timesteps_starts_afresh(name):
    s,n = cls(name)(**sd15),6
    expected = trajectory(s, n)
    s.set_timesteps(n)
    for t in s.timesteps[:4]: s.step(noise(), t, noise())
    assert torch.equal(trajectory(s, n), expected)
    s.set_timesteps(9)
    assert torch.equal(trajectory(s, n), expected)

@pytest.mark.parametrize('name', [n for n in names if n not in multistep])
def test_one_step_methods_remember_nothing(name):
    s = cls(name)(**sd15)
    s.set_timesteps(6)
    before = copy.deepcopy(vars(s))
    draw = lambda t: s.step(noise(), t, noise(seed=1), generator=torch.Generator().manual_seed(3))
    first = [draw(t).prev_sample for t in s.timesteps]
    again = [draw(t).prev_sample for t in s.timesteps.flip(0)]
    assert all(torch.equal(a, b) for a,b in zip(first, again[::-1], strict=True))
    assert all(torch.equal(v, before[k]) if isinstance(v, torch.Tensor) else k=='_levels' or v==before[k] for k,v in vars(s).items())

@pytest.mark.parametrize('name', multistep)
def test_multistep_methods_go_forward_to_the_end_and_not_beyond(name):
    s = cls(name)(**sd15)
    s.set_timesteps(6)
    for t in s.timesteps: s.step(noise(), t, noise())
    for t in s.timesteps[-1],s.timesteps[0]:
        with pytest.raises(ValueError, match='set_timesteps starts afresh'): s.step(noise(), t, noise())

@every
def test_a_copy_goes_on_alone(name):
    s = cls(name)(**sd15)
    expected = trajectory(s, 8)
    s.set_timesteps(8)
    x,fresh = noise()*s.init_noise_sigma,torch.Generator().manual_seed(1)
    for i,t in enumerate(s.timesteps):
        if i==5: s,other = copy.deepcopy(s),s
        if i>5: other.step(noise(), t, noise())
        kwargs = dict(generator=fresh) if 'generator' in inspect.signature(s.step).parameters else {}
        x = s.step(network(s.scale_model_input(x, t), t), t, x, **kwargs).prev_sample
    assert torch.equal(x, expected[-1])

@every
def test_every_picture_has_its_own_noise(name):
    if 'generator' not in inspect.signature(cls(name).step).parameters: pytest.skip('adds no noise and takes no source')
    class Ours:
        def __init__(self, seed): self.generator = torch.Generator().manual_seed(seed)
        def randn(self, *shape): return torch.randn(shape, generator=self.generator)
    def ends(sources, pictures):
        s = cls(name)(**sd15)
        s.set_timesteps(4)
        x = noise((3,4,2,2))[pictures]*s.init_noise_sigma
        for t in s.timesteps: x = s.step(network(s.scale_model_input(x, t), t), t, x, generator=sources).prev_sample
        return x
    seeded = lambda *seeds: [torch.Generator().manual_seed(i) for i in seeds]
    together = ends(seeded(5,6,7), [0,1,2])
    for i in range(3): assert torch.allclose(ends(seeded(5+i), [i]), together[i:i+1], atol=1e-6)
    assert torch.equal(ends([Ours(5),Ours(6),Ours(7)], [0,1,2]), together)
    assert torch.equal(ends(Ours(5), [0]), ends(seeded(5)[0], [0]))


# Any shape, dtype and device

@every
@pytest.mark.parametrize('shape', [(), (7,), (2,3), (1,2,3,4,5)])
def test_any_shape(name, shape):
    flat,shaped = trajectory(cls(name)(**sd15), 5, (math.prod(shape),)),trajectory(cls(name)(**sd15), 5, shape)
    assert shaped.shape[1:]==shape and torch.allclose(shaped.reshape(flat.shape), flat, rtol=1e-5, atol=1e-5)

@every
@pytest.mark.parametrize('dtype,least', [(torch.float64,1e-5), (torch.float16,.02), (torch.bfloat16,.1)])
def test_any_dtype(name, dtype, least):
    s = cls(name)(**sd15)
    exact,other = trajectory(s, 6),trajectory(s, 6, dtype=dtype)
    assert other.dtype==dtype and other.isfinite().all()
    if name not in ('DDPM','EulerAncestralDiscrete'): assert relative(other, exact)<least # their noise is another in another dtype
    s.set_timesteps(6)
    assert s.step(noise().to(dtype), s.timesteps[0], noise().to(dtype)).pred_original_sample.dtype==dtype

@every
def test_devices(name):
    s = cls(name)(**sd15)
    s.set_timesteps(6, device='meta')
    assert s.timesteps.device.type=='meta'
    if not torch.cuda.is_available(): return
    on_gpu,x = cls(name)(**sd15),noise().cuda()
    on_gpu.set_timesteps(6, device='cuda')
    for t in on_gpu.timesteps: x = on_gpu.step(network(on_gpu.scale_model_input(x, t), t), t, x).prev_sample
    assert x.device.type=='cuda' and x.isfinite().all()


# In pipelines

@pytest.fixture(scope='module')
def sd(): return StableDiffusion.from_pretrained(embedded_model(), device='cpu')

@pytest.fixture(scope='module')
def config(sd): return {**sd.scheduler.config, 'skip_prk_steps':True}

def pipeline_of(kind, sd, scheduler):
    "One of the library's pipelines, of our parts"
    pipeline = kind(**{**vars(sd), 'scheduler':scheduler}, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

def pixels(a, b): return max(np.abs(np.asarray(x).astype(int) - np.asarray(y)).max() for x,y in zip(a, b, strict=True))

@every
def test_in_our_pipeline_and_in_the_librarys(name, sd, config):
    drawn,prompts = [],[prompt,'a bag']
    for source in ours,diffusers:
        scheduler = cls(name, source).from_config(config)
        drawn.append(StableDiffusion(**{**vars(sd), 'scheduler':scheduler})(prompts, seed=3, num_inference_steps=5))
        library,seeds = pipeline_of(StableDiffusionPipeline, sd, scheduler),[torch.Generator().manual_seed(s) for s in (3,4)]
        drawn.append(library(prompts, generator=seeds, num_inference_steps=5).images)
    for other in drawn[1:]: assert pixels(drawn[0], other)<=1

@pytest.mark.parametrize('name', [n for n in names if n!='LMSDiscrete'])
def test_in_the_librarys_image_to_image(name, sd, config):
    "Not LMS: its namesake weights its first directions there as if it knew four"
    start,drawn = sd(prompt, seed=1, num_inference_steps=4)[0],[]
    for source in ours,diffusers:
        pipeline = pipeline_of(StableDiffusionImg2ImgPipeline, sd, cls(name, source).from_config(config))
        run = dict(strength=.6, num_inference_steps=8, generator=torch.Generator().manual_seed(2))
        drawn.append(pipeline('a photo of a green coat', start, **run).images)
    assert pixels(*drawn)<=1

def test_lms_from_the_middle_takes_a_first_step_of_the_right_length():
    "With a direction that never changes, every method must arrive exactly; the library's does not"
    ends = []
    for library in ours,diffusers:
        s = library.LMSDiscreteScheduler(**sd15)
        s.set_timesteps(10)
        direction,x = noise((1,2)),noise((1,2), 1)
        start = s.sigmas[5]
        for t in s.timesteps[5:]:
            s.scale_model_input(x, t)
            x = s.step(direction, t, x).prev_sample
        ends.append(relative(x, noise((1,2), 1)-start*direction))
    assert ends[0]<1e-5 and ends[1]>.1

def test_the_librarys_pipeline_mends_ours_like_its_own(sd):
    "It sets steps_offset and clip_sample as Stable Diffusion needs them, and says so"
    mended = []
    for source in ours,diffusers:
        scheduler = source.DDIMScheduler(**sd15)
        with pytest.warns(FutureWarning): pipeline_of(StableDiffusionPipeline, sd, scheduler)
        assert (scheduler.config.steps_offset,scheduler.config.clip_sample)==(1,False)
        mended.append(trajectory(scheduler, 5))
    assert torch.equal(*mended)

def test_given_to_from_pretrained(config):
    scheduler = EulerDiscreteScheduler.from_config(config)
    pipeline = StableDiffusionPipeline.from_pretrained(embedded_model(), scheduler=scheduler, safety_checker=None)
    assert pipeline.scheduler is scheduler

def test_results_have_names_and_are_tuples():
    s = DDIMScheduler(**sd15)
    s.set_timesteps(5)
    a,b = s.step(noise(), 800, noise(seed=1)),s.step(noise(), 800, noise(seed=1), return_dict=False)
    assert torch.equal(a.prev_sample, b[0]) and torch.equal(a[1], a.pred_original_sample) and isinstance(b, tuple)
