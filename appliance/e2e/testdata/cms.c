/*
 * What OpenSSL's library takes for CMS by itself: no process that starts, no
 * file that is read or written meanwhile. Everything is read once; for each
 * number on standard input the operation is done as often, and printed is how
 * many nanoseconds passed, and were spent on a processor. What comes out goes nowhere.
 *
 *   cms open|verify|key KEY CERT FILE
 *   cms sign            KEY CERT FILE
 *   cms seal-cbc|seal-gcm KEY CERT FILE
 *
 * key is the one operation of a private key that is in open and in sign.
 *
 * The functions are declared here: a dozen of them, which are the same since
 * OpenSSL 1.1, are no reason to have the package of its headers installed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void *BIO_new_mem_buf(const void *, int), *BIO_new_file(const char *, const char *), *BIO_new(const void *);
const void *BIO_s_null(void);
int BIO_free(void *);
void *PEM_read_bio_PrivateKey(void *, void **, void *, void *), *PEM_read_bio_X509(void *, void **, void *, void *);
void *d2i_CMS_bio(void *, void **);
int i2d_CMS_bio(void *, void *), i2d_CMS_bio_stream(void *, void *, void *, int);
int CMS_decrypt(void *, void *, void *, void *, void *, unsigned), CMS_verify(void *, void *, void *, void *, void *, unsigned);
void *CMS_encrypt(void *, void *, const void *, unsigned), *CMS_sign(void *, void *, void *, void *, unsigned);
void CMS_ContentInfo_free(void *);
const void *EVP_aes_256_cbc(void), *EVP_aes_256_gcm(void);
void *OPENSSL_sk_new_null(void), *X509_STORE_new(void);
int OPENSSL_sk_push(void *, const void *);
void *EVP_PKEY_CTX_new(void *, void *);
void EVP_PKEY_CTX_free(void *);
int EVP_PKEY_sign_init(void *), EVP_PKEY_sign(void *, unsigned char *, size_t *, const unsigned char *, size_t);

enum { NO_CERT_VERIFY = 0x20, DETACHED = 0x40, BINARY = 0x80, STREAM = 0x1000 };

static void *key, *cert, *certs, *store;
static char *data;
static long size;

static int once(const char *what)
{
	void *in = BIO_new_mem_buf(data, (int)size), *out = BIO_new(BIO_s_null()), *m = NULL;
	int ok = 0;

	if (!strcmp(what, "open")) {
		ok = (m = d2i_CMS_bio(in, NULL)) && CMS_decrypt(m, key, cert, NULL, out, BINARY);
	} else if (!strcmp(what, "verify")) {
		ok = (m = d2i_CMS_bio(in, NULL)) && CMS_verify(m, certs, store, NULL, out, BINARY | NO_CERT_VERIFY);
	} else if (!strcmp(what, "sign")) {
		ok = (m = CMS_sign(cert, key, NULL, in, BINARY | DETACHED)) && i2d_CMS_bio(out, m);
	} else if (!strncmp(what, "seal-", 5)) {
		m = CMS_encrypt(certs, in, strcmp(what, "seal-gcm") ? EVP_aes_256_cbc() : EVP_aes_256_gcm(), BINARY | STREAM);
		ok = m && i2d_CMS_bio_stream(out, m, in, BINARY | STREAM);
	} else if (!strcmp(what, "key")) {
		unsigned char digest[32] = {0}, signature[1024];
		size_t n = sizeof signature;
		void *c = EVP_PKEY_CTX_new(key, NULL);
		ok = EVP_PKEY_sign_init(c) > 0 && EVP_PKEY_sign(c, signature, &n, digest, sizeof digest) > 0;
		EVP_PKEY_CTX_free(c);
	}
	CMS_ContentInfo_free(m);
	BIO_free(in);
	BIO_free(out);
	return ok;
}

static int load(const char *path)
{
	FILE *f = fopen(path, "rb");

	if (!f || fseek(f, 0, SEEK_END) || (size = ftell(f)) < 0 || !(data = malloc(size + 1)))
		return 0;
	rewind(f);
	return fread(data, 1, size, f) == (size_t)size && !fclose(f);
}

static long long now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int n;

	if (argc != 5 || !load(argv[4]))
		return 2;
	key = PEM_read_bio_PrivateKey(BIO_new_file(argv[2], "r"), NULL, NULL, NULL);
	cert = PEM_read_bio_X509(BIO_new_file(argv[3], "r"), NULL, NULL, NULL);
	certs = OPENSSL_sk_new_null();
	store = X509_STORE_new();
	if (!key || !cert || !OPENSSL_sk_push(certs, cert))
		return 2;
	while (scanf("%d", &n) == 1) {
		long long wall = now(CLOCK_MONOTONIC), spent = now(CLOCK_PROCESS_CPUTIME_ID);

		for (int i = 0; i < n; i++)
			if (!once(argv[1]))
				return 1;
		printf("%lld %lld\n", now(CLOCK_MONOTONIC) - wall, now(CLOCK_PROCESS_CPUTIME_ID) - spent);
		fflush(stdout);
	}
	return 0;
}
