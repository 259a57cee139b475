"""`LinearClassifier` on the full Fashion-MNIST: what each improvement is worth, and scikit-learn's `LogisticRegression` beside it.

    OMP_NUM_THREADS=1 python benchmarks/linear.py

Needs the full data set (see `miniai.fashion.load_fashion_mnist`); without scikit-learn, its rows are left out. One thread; times are
processor time of this process, the median of three runs. Targets: a test accuracy of at least 0.842, and at least 3 times as fast as scikit-learn at that accuracy."""
import os
for name in ('OMP_NUM_THREADS','MKL_NUM_THREADS','OPENBLAS_NUM_THREADS'): os.environ[name] = '1'
import time, warnings
import torch
from common import machine
from miniai.fashion import load_fashion_mnist
from miniai.linear import LinearClassifier
from miniai.random import WichmannHill

torch.set_num_threads(1)

def cpu(f):
    start = time.process_time()
    res = f()
    return res, time.process_time()-start

def sgd(x, y, seed, lr, momentum=0., decay=False, standardise=True, epochs=8, batch_size=250):
    "`LinearClassifier.steps` with a switch for each of its parts"
    model,rng,done = LinearClassifier(),WichmannHill(seed),0
    mean,scale = (x.mean(0)[:,None], 1/(x.var(0, correction=0)[:,None] + .01)) if standardise else (0, 1)
    momentum_w,momentum_b = torch.zeros_like(model.weight),torch.zeros_like(model.bias)
    for _ in range(epochs):
        for idx in rng.rand(len(x)).argsort().split(batch_size):
            _,grad_w,grad_b = model.gradients(x[idx], y[idx])
            momentum_w.mul_(momentum).add_(scale*(grad_w - mean*grad_b))
            momentum_b.mul_(momentum).add_(grad_b)
            rate = lr*(1 - done/(epochs*len(x))) if decay else lr
            model.weight -= rate*momentum_w
            model.bias -= rate*(momentum_b - (mean*momentum_w).sum(0))
            done += len(idx)
    return model

def ours(x, y, seed):
    model = LinearClassifier()
    model.fit(x, y, generator=WichmannHill(seed))
    return model

def row(name, train, xt, yt, seeds):
    "Accuracies and times of `train` for these seeds; returns the median time"
    runs = [cpu(lambda: train(seed)) for seed in range(seeds)]
    times,accs = sorted(t for _,t in runs),sorted(m.accuracy(xt, yt) for m,_ in runs)
    print(f'{name:42} accuracy {sum(accs)/seeds:.4f} ({accs[0]:.4f} to {accs[-1]:.4f})   {times[seeds//2]:6.2f} s', flush=True)
    return times[seeds//2]

def scikit(x, y, xt, yt, ours_s, seeds):
    try: from sklearn.linear_model import LogisticRegression
    except ImportError: return print('scikit-learn is not installed')
    warnings.filterwarnings('ignore', message='lbfgs failed to converge')
    mean,sigma = x.mean(0),(x.var(0, correction=0) + .01).sqrt()
    inputs = {'pixels':(x,xt), 'standardised':((x-mean)/sigma,(xt-mean)/sigma)}
    for name,(x,xt) in inputs.items():
        for iters in (50,75,100):
            runs = [cpu(lambda: LogisticRegression(max_iter=iters).fit(x.numpy(), y.numpy())) for _ in range(seeds)]
            t,acc = sorted(t for _,t in runs)[seeds//2],runs[0][0].score(xt.numpy(), yt.numpy())
            what = f'scikit-learn, {name}, {iters} iterations'
            print(f'{what:42} accuracy {acc:.4f}   {t:.2f} s, {t/ours_s:.1f} times ours', flush=True)
            if acc>=.842: break

def main(seeds=3):
    (x,y),(xt,yt) = (load_fashion_mnist(s, quiet=True) for s in ('train','test'))
    if len(x)<60_000: raise SystemExit('This needs the full Fashion-MNIST; only the sample was found.')
    x,xt = (o.flatten(1)/255 for o in (x,xt))
    print(f'{machine()}; 8 epochs, {seeds} seeds')
    for name,kwargs in {'plain, lr=0.1': dict(lr=.1, standardise=False), 'plain, lr=0.3': dict(lr=.3, standardise=False),
                        'standardised, lr=0.02': dict(lr=.02), 'standardised, lr=0.05': dict(lr=.05),
                        '+ momentum, lr=0.002': dict(lr=.002, momentum=.9), '+ momentum, lr=0.005': dict(lr=.005, momentum=.9),
                        'standardised + decay, lr=0.3': dict(lr=.3, decay=True)}.items():
        row(name, lambda seed: sgd(x, y, seed, **kwargs), xt, yt, seeds)
    seconds = row('LinearClassifier.fit: all, lr=0.05', lambda seed: ours(x, y, seed), xt, yt, seeds)
    scikit(x, y, xt, yt, seconds, seeds)

if __name__=='__main__': main()
