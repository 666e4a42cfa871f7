"""dkimpy judges, signs and seals the mail on standard input.

judge.py dkim                        prints pass or fail for each signature, from the top
judge.py arc                         prints the verdict on the chain
judge.py sign ALG KEY DOMAIN SEL [l] prints a signature field; with l over the body's length
judge.py seal KEY DOMAIN SEL ID      prints the fields of the next ARC set
"""
import sys
import dkim

mail = sys.stdin.buffer.read()
mode, rest = sys.argv[1], sys.argv[2:]
if mode == "dkim":
    d = dkim.DKIM(mail)
    count = sum(1 for name, _ in d.headers if name.lower() == b"dkim-signature")
    for i in range(count):
        try:
            good = dkim.DKIM(mail).verify(idx=i)
        except dkim.DKIMException as e:
            print("error", e)
            continue
        print("pass" if good else "fail")
elif mode == "arc":
    cv, results, reason = dkim.arc_verify(mail)
    print((cv or b"none").decode(), reason)
elif mode == "sign":
    algorithm, key, domain, selector = rest[:4]
    sys.stdout.buffer.write(dkim.sign(mail, selector.encode(), domain.encode(), open(key, "rb").read(), canonicalize=(b"relaxed", b"relaxed"),
                                      signature_algorithm=algorithm.encode(), length=len(rest) > 4))
elif mode == "seal":
    key, domain, selector, server = rest
    sys.stdout.buffer.write(b"".join(dkim.arc_sign(mail, selector.encode(), domain.encode(), open(key, "rb").read(), server.encode())))
