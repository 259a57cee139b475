"""`LinearClassifier` beside scikit-learn's `LogisticRegression` on the full Fashion-MNIST: accuracy and time, one thread each.

    OMP_NUM_THREADS=1 python benchmarks/linear.py

Needs the full data set (see `miniai.fashion.load_fashion_mnist`) and scikit-learn. Times are processor time of this process.
Targets: test accuracy of at least 0.842, at least 3× faster than scikit-learn at that accuracy."""
import os
for name in ('OMP_NUM_THREADS','MKL_NUM_THREADS','OPENBLAS_NUM_THREADS'): os.environ[name] = '1'
import platform,time,warnings
import sklearn,torch
from sklearn.linear_model import LogisticRegression
from miniai.fashion import load_fashion_mnist
from miniai.linear import LinearClassifier
from miniai.random import WichmannHill

torch.set_num_threads(1)
warnings.filterwarnings('ignore', message='lbfgs failed to converge')

def cpu(f):
    start = time.process_time()
    res = f()
    return res, time.process_time()-start

def ours(x, y, seed):
    model = LinearClassifier()
    model.fit(x, y, generator=WichmannHill(seed))
    return model

def main(seeds=5):
    (x,y),(xt,yt) = (load_fashion_mnist(s, quiet=True) for s in ('train','test'))
    if len(x)<60_000: raise SystemExit('This needs the full Fashion-MNIST; only the sample was found.')
    x,xt = (o.flatten(1)/255 for o in (x,xt))
    print(f'Python {platform.python_version()}, torch {torch.__version__}, scikit-learn {sklearn.__version__}')
    runs = [cpu(lambda: ours(x, y, seed)) for seed in range(seeds)]
    times,accs = sorted(t for _,t in runs),sorted(m.accuracy(xt, yt) for m,_ in runs)
    same = runs[0][0].weight.equal(ours(x, y, 0).weight)
    print(f'LinearClassifier, 8 epochs, {seeds} seeds    accuracy {accs[0]:.4f} to {accs[-1]:.4f}   {times[seeds//2]:6.2f} s (median; {times[0]:.2f} to {times[-1]:.2f}); same seed, same weights: {same}')
    xn,yn,xtn,ytn = (o.numpy() for o in (x,y,xt,yt))
    for iters in (50,75,100):
        model,t = cpu(lambda: LogisticRegression(max_iter=iters).fit(xn, yn))
        acc = model.score(xtn, ytn)
        print(f'LogisticRegression, {iters:3} iterations         accuracy {acc:.4f}             {t:6.2f} s, {t/times[seeds//2]:.1f} times ours', flush=True)
        if acc>=.842: break

if __name__=='__main__': main()
