"""Published losses written out as loops from the papers' equations: slow on purpose, what the library's terms are held against.

z [G, J, D] are representations after the head, raw: normalised inside where the paper does. valid [G, J] bool, True where a view exists; a
padded view is never read. log is natural, float64 stays float64, what a stop-gradient stops is detached. Per-anchor losses are the mean
over anchors that have a positive; per_group=True: their sum / G, J times the mean for full groups. Pair losses beyond J = 2 are the mean
over a group's unordered pairs, then over the groups with a pair (where all G groups count, multiply by their share).
"""

from __future__ import annotations

import math
from itertools import combinations

import torch


def unit(v):
    return v / v.square().sum().sqrt()


def mean(values):
    return torch.stack(list(values)).mean()


def log_sum_exp(values):
    return torch.logsumexp(torch.stack(list(values)), 0)


def log_mean_exp(values):
    return log_sum_exp(values) - math.log(len(values))


def cov(x):
    """Unbiased covariance [D, D] of the rows of [N, D]."""
    c, dims = x - x.mean(0), range(x.shape[1])
    return torch.stack([torch.stack([c[:, a] @ c[:, b] / (len(x) - 1) for b in dims]) for a in dims])


def normal(x, s):
    """log N(x; 0, s), x [D], s [D, D]."""
    return -0.5 * (len(x) * math.log(2 * math.pi) + torch.logdet(s) + x @ torch.linalg.inv(s) @ x)


def views(z, valid):
    """(group, view) of every view that exists."""
    return [(g, j) for g in range(z.shape[0]) for j in range(z.shape[1]) if valid is None or bool(valid[g, j])]


def both_directions(z, valid, loss):
    """Mean over the groups with a pair of the mean over their unordered pairs of loss(g, i, j) + loss(g, j, i)."""
    groups = [[j for h, j in views(z, valid) if h == g] for g in range(len(z))]
    pairs = [[loss(g, i, j) + loss(g, j, i) for i, j in combinations(js, 2)] for g, js in enumerate(groups)]
    return mean(mean(terms) for terms in pairs if terms)


def pairs_of_batches(z, valid):
    """For each unordered pair of view numbers the two [N, D] of the groups that have both views, N > 1."""
    present = views(z, valid)
    for i, j in combinations(range(z.shape[1]), 2):
        rows = [g for g in range(len(z)) if (g, i) in present and (g, j) in present]
        if len(rows) > 1:
            yield torch.stack([z[g, i] for g in rows]), torch.stack([z[g, j] for g in rows])


# ---------------------------------------------------------------------- contrastive


def nt_xent(z, temperature, valid=None, per_group=False):
    """SimCLR (Chen et al. 2020, arXiv:2002.05709, Eq. 1; mean over the 2N anchors as in Algorithm 1).

    J > 2: positives outside the log (Khosla et al. 2020, Eq. 2, L_out). The log-sum-exp runs over all other valid views of the batch,
    own group included; a view without a positive is a negative but no anchor.
    """
    every, losses = views(z, valid), []
    for g, j in every:
        score = {(h, k): unit(z[g, j]) @ unit(z[h, k]) / temperature for h, k in every if (h, k) != (g, j)}
        positives = [s for (h, _), s in score.items() if h == g]
        if positives:
            losses.append(log_sum_exp(score.values()) - mean(positives))
    return torch.stack(losses).sum() / (len(z) if per_group else len(losses))


def moco(q, k, queue, temperature, valid=None, per_group=False):
    """MoCo (He et al. 2020, arXiv:1911.05722, Eq. 1): every query [G, J, D] with the keys [G, J, D] of the other views of its group.

    For each positive a softmax over it and the queue [K, D], then the mean over positives. Queue and keys are normalised here and detached;
    the keys of this batch are no negatives. The paper has one direction (query view 1, key view 2), here every view is a query.
    """
    every, losses = views(q, valid), []
    for g, i in every:
        terms, negatives = [], [unit(q[g, i]) @ unit(entry.detach()) / temperature for entry in queue]
        for h, j in every:
            if h == g and j != i:
                positive = unit(q[g, i]) @ unit(k[g, j].detach()) / temperature
                terms.append(log_sum_exp([positive, *negatives]) - positive)
        if terms:
            losses.append(mean(terms))
    return torch.stack(losses).sum() / (len(q) if per_group else len(losses))


def infonce_cpc(z_context, z_target, weight):
    """CPC (van den Oord et al. 2018, arXiv:1807.03748, Eq. 3 and 4): -mean_g log f(t_g, c_g) / sum_h f(t_h, c_g), f = exp(t' W c).

    z_context [G, C], z_target [G, D], weight [D, C]; raw, no temperature; candidates are the G targets, the positive among them.
    """
    losses = []
    for g, context in enumerate(z_context):
        scores = [target @ (weight @ context) for target in z_target]
        losses.append(log_sum_exp(scores) - scores[g])
    return mean(losses)


def clip(z, logit_scale):
    """CLIP (Radford et al. 2021, arXiv:2103.00020, Figure 3), z [G, 2, D]: HALF the sum of the two cross-entropies, each a mean over G.

    logit_scale multiplies the cosines: it is exp(t) of the paper's learned t, 1 / temperature.
    """
    one, two = (torch.stack([unit(group[v]) for group in z]) for v in (0, 1))
    scale = logit_scale * torch.eye(z.shape[2], dtype=z.dtype)
    return (infonce_cpc(one, two, scale) + infonce_cpc(two, one, scale)) / 2


def mcinfonce(samples, concentration, negatives=None):
    """MCInfoNCE (Kirchhof et al. 2023, arXiv:2302.02865): -mean_g log mean_s e^(k z.z+) / (e^(k z.z+) + mean_n e^(k z.z_n)).

    samples [S, G, 2, D] on the sphere, drawn by the caller from the posteriors vMF(mu, kappa), which enter through them only; the s-th
    samples of all views go together. PROBABILITIES are averaged inside the log. As released: the anchor is view 0 (not symmetrised), the
    negatives are AVERAGED. negatives[g]: the groups whose view 1 is one; default all others (released: given, else the neighbour alone).
    """
    losses, groups = [], range(samples.shape[1])
    for g in groups:
        others, logs = [h for h in groups if h != g] if negatives is None else negatives[g], []
        for z in samples:
            positive = concentration * (z[g, 0] @ z[g, 1])
            repulsion = log_mean_exp([concentration * (z[g, 0] @ z[h, 1]) for h in others])
            logs.append(positive - log_sum_exp([positive, repulsion]))
        losses.append(-log_mean_exp(logs))
    return mean(losses)


# ---------------------------------------------------------------------- statistics of the batch


def vicreg(z, invariance=25.0, variance=25.0, covariance=1.0, valid=None):
    """VICReg (Bardes et al. 2022, arXiv:2105.04906, Eq. 1-6) in the released form; mean over unordered pairs of view numbers.

    Released: invariance is a mean over groups AND D (Eq. 5 sums over D), the variance terms of two views are halved (Eq. 6 adds them), the
    covariance terms added; eps 1e-4 inside the root, unbiased. Ragged: a pair's statistics are over the groups with both its views.
    """
    losses = []
    for one, two in pairs_of_batches(z, valid):
        loss = invariance * mean((a - b) ** 2 for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
        for c in (cov(one), cov(two)):
            hinges = [torch.relu(1 - torch.sqrt(c[d, d] + 1e-4)) for d in range(len(c))]
            squares = sum(c[a, b] ** 2 for a in range(len(c)) for b in range(len(c)) if a != b)
            loss = loss + variance * mean(hinges) / 2 + covariance * squares / len(c)
        losses.append(loss)
    return mean(losses)


def barlow_twins(z, off_diagonal=0.0051, eps=1e-5, unbiased=False, valid=None):
    """Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230, Eq. 1): sum_a (1 - C_aa)^2 + w sum_(a != b) C_ab^2; mean over pairs of views.

    C = standardised' standardised / N. Default as released, BatchNorm1d(affine=False): BIASED variance + eps 1e-5. Eq. 2 is eps = 0; the
    pseudo-code divides by torch's std: unbiased=True, eps=0. Ragged: a pair's statistics are over the groups with both its views.
    """
    losses = []
    for pair in pairs_of_batches(z, valid):
        loss, n, standard = z.new_zeros(()), len(pair[0]), []
        for x in pair:
            spread = cov(x).diagonal() * (1 if unbiased else (n - 1) / n)
            standard.append([(x[:, d] - x[:, d].mean()) / torch.sqrt(s + eps) for d, s in enumerate(spread)])
        for a, first in enumerate(standard[0]):
            for b, second in enumerate(standard[1]):
                c = first @ second / n
                loss = loss + ((1 - c) ** 2 if a == b else off_diagonal * c**2)
        losses.append(loss)
    return mean(losses)


def whiten(x, eps=0.0):
    """L^-1 (x - mean) of [N, D] with L L' = (1 - eps) S + eps I, L lower, S the unbiased covariance: Cholesky, not symmetric whitening."""
    factor = torch.linalg.cholesky((1 - eps) * cov(x) + eps * torch.eye(x.shape[1], dtype=x.dtype))
    return torch.stack([torch.linalg.inv(factor) @ (row - x.mean(0)) for row in x])


def wmse(z, eps=0.0, pooled=False, valid=None):
    """W-MSE (Ermolov et al. 2021, arXiv:2007.06346): |u - u'|^2 = 2 - 2 cos of whitened views; mean over groups and pairs of views.

    Full batch: no slicing, one whitening. As released each VIEW is whitened by itself with Cholesky (N - 1, shrinkage eps, 0 by default);
    pooled=True: one whitening of all views together. The two differ, and so does a symmetric square root. Needs more rows than D.
    """
    present, white = views(z, valid), {}
    for part in [present] if pooled else [[v for v in present if v[1] == j] for j in range(z.shape[1])]:
        if part:
            white.update(zip(part, whiten(torch.stack([z[v] for v in part]), eps), strict=True))
    return both_directions(z, valid, lambda g, i, j: (unit(white[g, i]) - unit(white[g, j])).square().sum() / 2)


# ---------------------------------------------------------------------- predictors and teachers


def simsiam(p, z, valid=None):
    """SimSiam (Chen, He 2021, arXiv:2011.10566, Eq. 1-4): D(p_i, z_j) / 2 + D(p_j, z_i) / 2, D = -cos, z detached; in [-1, 1]."""
    return both_directions(z, valid, lambda g, i, j: -(unit(p[g, i]) @ unit(z[g, j].detach())) / 2)


def byol(p, z_target, valid=None):
    """BYOL (Grill et al. 2020, arXiv:2006.07733, Eq. 2 and L + L~): the SUM of both directions of |q - z'|^2 of unit vectors; in [0, 8]."""
    return both_directions(p, valid, lambda g, i, j: (unit(p[g, i]) - unit(z_target[g, j].detach())).square().sum())


def cross_entropy(target, logits):
    """-sum_k target_k log softmax(logits)_k."""
    return -sum(t * (s - log_sum_exp(logits)) for t, s in zip(target, logits, strict=True))


def dino(student, teacher, centre, student_temperature=0.1, teacher_temperature=0.04, halve=False, valid=None):
    """DINO (Caron et al. 2021, arXiv:2104.14294, Eq. 1-3): H(P_t(x_i), P_s(x_j)) + H(P_t(x_j), P_s(x_i)), logits [G, J, K], centre [K].

    The teacher alone is centred, (t - centre) / its temperature, with the centre from BEFORE this batch, and detached. Eq. 3 SUMS the terms
    (halve=False); Algorithm 1 (H / 2 + H / 2) and the released code (mean over all terms) are halve=True. Both networks see all views.
    """
    p = {v: torch.softmax((teacher[v].detach() - centre) / teacher_temperature, 0) for v in views(teacher, valid)}
    loss = both_directions(student, valid, lambda g, i, j: cross_entropy(p[g, i], student[g, j] / student_temperature))
    return loss / 2 if halve else loss


def dino_centre(teacher, centre, momentum=0.9, valid=None):
    """DINO, Eq. 4: m c + (1 - m) * mean of the raw teacher logits over all views of the batch."""
    every = [teacher[v].detach() for v in views(teacher, valid)]
    return momentum * centre + (1 - momentum) * sum(every) / len(every)


def swav_scores(z, prototypes, valid=None):
    """Cosines [G, J, K] of z [G, J, D] and prototypes [K, D]; 0 for padded views, whose norm is not taken."""
    scores = z.new_zeros(*z.shape[:2], len(prototypes))
    for g, j in views(z, valid):
        scores[g, j] = torch.stack([unit(z[g, j]) @ unit(c) for c in prototypes])
    return scores


def sinkhorn(scores, epsilon=0.05, steps=3):
    """SwAV, Eq. 3-5: codes [N, K] = N diag(u) exp(scores / epsilon) diag(v) of scores [N, K], no gradient.

    A step scales prototypes to 1 / K, then samples to 1 / N, so rows of the result sum to 1 after any number of steps (at least one).
    """
    q = torch.exp((scores.detach() - scores.detach().max()) / epsilon)
    for _ in range(steps):
        for k in range(q.shape[1]):
            q[:, k] = q[:, k] / q[:, k].sum() / q.shape[1]
        for n in range(q.shape[0]):
            q[n] = q[n] / q[n].sum() / q.shape[0]
    return q * q.shape[0]


def swav(scores, temperature=0.1, epsilon=0.05, steps=3, halve=False, valid=None):
    """SwAV (Caron et al. 2020, arXiv:2006.09882, Eq. 1 and 2): l(z_i, q_j) + l(z_j, q_i), scores [G, J, K] as `swav_scores` gives them.

    Codes: Sinkhorn over the G samples of EACH view number apart (as released), detached, soft, no queue. Eq. 1 SUMS (halve=False); the
    pseudo-code (0.5 *) and the released code (mean over crops) are halve=True.
    """
    codes, present = {}, views(scores, valid)
    for j in range(scores.shape[1]):
        rows = [v for v in present if v[1] == j]
        if rows:
            codes.update(zip(rows, sinkhorn(torch.stack([scores[v] for v in rows]), epsilon, steps), strict=True))
    loss = both_directions(scores, valid, lambda g, i, j: cross_entropy(codes[g, j], scores[g, i] / temperature))
    return loss / 2 if halve else loss


# ---------------------------------------------------------------------- classes


def classify(z, label, weight, bias=None, valid=None):
    """Mean over views of -log softmax(W z + b)_label; z [G, J, D] RAW, label [G] or [G, J], weight [C, D], bias [C].

    Instance discrimination with class weights (Dosovitskiy et al. 2014, arXiv:1406.6909; Wu et al. 2018, arXiv:1805.01978, Eq. 1, no bias):
    label = index of the group. DeepCluster (Caron et al. 2018, arXiv:1807.05520, Eq. 1): label = pseudo-label, clusters not reweighted.
    """
    losses = []
    for g, j in views(z, valid):
        logits = [row @ z[g, j] + (0.0 if bias is None else bias[c]) for c, row in enumerate(weight)]
        losses.append(log_sum_exp(logits) - logits[int(label[g] if label.ndim == 1 else label[g, j])])
    return mean(losses)


def instance_discrimination(z, index, bank, temperature=0.07, valid=None):
    """Non-parametric softmax over a full memory bank [N, D] (Wu et al. 2018, arXiv:1805.01978, Eq. 2), mean over views (paper: a sum).

    index [G] is the bank's row of a group; z and bank are normalised, the bank detached; no NCE, no proximal term.
    """
    keys, losses = [unit(row.detach()) / temperature for row in bank], []
    for g, j in views(z, valid):
        logits = [unit(z[g, j]) @ key for key in keys]
        losses.append(log_sum_exp(logits) - logits[int(index[g])])
    return mean(losses)


def variational_classification(z, label, loc, variance, weight, class_log_prior=None):
    """Variational Classification (Dhuliawala et al. 2023, arXiv:2305.10406) without its adversarial term; z [N, D], label [N].

    Mean of -log softmax_c(log pi_c + log p(z | c))_label - weight * log p(z | label), p(z | c) = N(loc_c, diag variance_c), both [C, D];
    pi uniform unless given. Densities are normalised: the released code drops the constant weight * (D / 2) log 2 pi.
    """
    losses = []
    for x, y in zip(z, label.tolist(), strict=True):
        log_p = [normal(x - m, torch.diag(v)) for m, v in zip(loc, variance, strict=True)]
        joint = log_p if class_log_prior is None else [d + p for d, p in zip(log_p, class_log_prior, strict=True)]
        losses.append(log_sum_exp(joint) - joint[y] - weight * log_p[y])
    return mean(losses)


def power_spherical(z, mu, kappa):
    """log p = kappa log(1 + mu.z) - (a + b) log 2 - b log pi - log Gamma(a) + log Gamma(a + b), b = (D - 1) / 2, a = b + kappa.

    De Cao, Aziz 2020, arXiv:2006.04437; z, mu [D] on the unit sphere; kappa = 0 is the uniform density there.
    """
    b = (len(z) - 1) / 2
    gammas = torch.lgamma(b + kappa) - torch.lgamma(2 * b + kappa)
    return kappa * torch.log1p(mu @ z) - (2 * b + kappa) * math.log(2) - b * math.log(math.pi) - gammas


def vi_simsiam(mu, kappa, samples):
    """VI-SimSiam (Nakamura et al. 2023, arXiv:2203.11437): (J_align, J_uniform, J_KL), means over groups; the loss is minus their sum.

    SOURCED (abstract, summaries): views are modalities of one z, the network is p(z | x), power spherical with a predicted kappa, p(x) is
    the empirical marginal; three terms of these names. DERIVED from it with Bayes' rule log p(x | z) = log p(z | x) - log p(z) + const,
    p(z) = mean of p(z | x) over the views of the batch: J_align = E_q sum_j log p(z | x_j), J_uniform = -J E_q log p(z), J_KL =
    -KL(q || uniform). NOT SOURCED: q (here the mixture mean_j p(z | x_j)), predictor, stop-gradients (none here), weights of the terms.
    mu [G, J, D] unit vectors, kappa [G, J], samples [S, G, J, D]: draws from each view's p(z | x_j).
    """
    align, uniform, kl, (num, count) = [], [], [], mu.shape[:2]
    for g in range(num):
        for z in samples[:, g].flatten(0, 1):
            log_p = [[power_spherical(z, mu[h, j], kappa[h, j]) for j in range(count)] for h in range(num)]
            align.append(sum(log_p[g]))
            uniform.append(-count * log_mean_exp([value for row in log_p for value in row]))
            kl.append(log_mean_exp(log_p[g]) - power_spherical(z, mu[g, 0], torch.zeros_like(kappa[g, 0])))
    return mean(align), mean(uniform), -mean(kl)


def group_normal(z, view_scale, content_scale=None):
    """log integral p(y) prod_j N(z_j; y, s^2 I) dy of z [J, D], p(y) = N(0, c^2 I) or 1 (None), by dense covariances over views."""
    eye, ones = torch.eye(len(z), dtype=z.dtype), torch.ones(len(z), len(z), dtype=z.dtype)
    if content_scale is not None:
        return sum(normal(x, view_scale**2 * eye + content_scale**2 * ones) for x in z.T)
    # x_j - x_0 is free of y, and the integral of N(x_0; y, s^2) over y is 1.
    return sum(normal(x[1:] - x[0], view_scale**2 * (eye + ones)[1:, 1:]) for x in z.T)


# ---------------------------------------------------------------------- latent distribution matching (arXiv:2605.03517)


def log_det_entropy(x):
    """D / 2 (1 + log 2 pi) + log|S| / 2 of the rows of [N, D], S unbiased; nats, exact for a Gaussian."""
    return 0.5 * x.shape[1] * (1 + math.log(2 * math.pi)) + 0.5 * torch.logdet(cov(x))


def kde_entropy(x, concentration, own=False):
    """-mean_i log mean_j exp(concentration x_i.x_j) of the rows of [N, D] as they are, j != i unless own; kernel's normaliser left out."""
    rows = range(len(x))
    return -mean(log_mean_exp([concentration * (x[i] @ x[j]) for j in rows if own or j != i]) for i in rows)


def ldm_sphere(z, alignment, kernel, mutual_information=True, pooled=False, own=False):
    """SimCLR-type objective, GREATER is better, z [G, 2, D]: alignment <f.f'> + entropy, constants of both densities left out.

    F_MI (Eq. 6): H[z] + H[z'] by KDE over each view's points, pooled=True: 2 H over the 2G points of both, the positive among them
    (SimCLR: F_MI = -2 NT-Xent + 2 log(2G - 1) at alignment 2 / tau, kernel 1 / tau). F_LDM (Eq. 47, mutual_information=False): H[z, z'],
    ONE log-mean-exp of exp(kernel (f.f- + f'.f'-)). own: a point is in its own density (released: yes, and a sum for the mean).
    """
    one, two = ([unit(group[v]) for group in z] for v in (0, 1))
    fit = alignment * mean(a @ b for a, b in zip(one, two, strict=True))
    if not mutual_information:
        return fit + kde_entropy(torch.stack([torch.cat(pair) for pair in zip(one, two, strict=True)]), kernel, own)
    if pooled:
        return fit + 2 * kde_entropy(torch.stack(one + two), kernel, own)
    return fit + kde_entropy(torch.stack(one), kernel, own) + kde_entropy(torch.stack(two), kernel, own)


def ldm_plane(z, view_scale, mutual_information=True):
    """VICReg-type objective, GREATER is better, z [G, 2, D]: -<|f - f'|^2> / 2 s^2 + entropy by LogDet, constants left out.

    F_MI: log|S_z| / 2 + log|S_z'| / 2 (log|S| for equal views). F_LDM: log|S_(z,z')| / 2 of the 2D x 2D covariance of the pair (Eq. 9).
    """
    one, two = z[:, 0], z[:, 1]
    fit = -mean((a - b).square().sum() for a, b in zip(one, two, strict=True)) / (2 * view_scale**2)
    if mutual_information:
        return fit + 0.5 * torch.logdet(cov(one)) + 0.5 * torch.logdet(cov(two))
    return fit + 0.5 * torch.logdet(cov(torch.cat([one, two], 1)))


def ldm_categorical(probs, beta, mutual_information=False):
    """Appendix A.8, GREATER is better, probs [G, 2, K] on the simplex: beta <sum_k p_k p'_k> + exact H[k, k'] (F_MI: H[k] + H[k'])."""
    table = sum(torch.outer(one, two) for one, two in probs) / len(probs)
    entropy = -torch.xlogy(table, table).sum()
    if mutual_information:
        entropy = -sum(torch.xlogy(p, p).sum() for p in (table.sum(0), table.sum(1)))
    return beta * table.diagonal().sum() + entropy
