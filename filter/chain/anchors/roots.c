/*
 * Prints the roots of a PKCS#11 module of NSS that are trusted to issue
 * certificates for mail, as PEM with comments; with "all" behind the module,
 * every root, those for mail marked.
 *
 *   roots /usr/lib/x86_64-linux-gnu/libnssckbi.so [all]
 *
 * The module holds a trust object for each certificate of the same issuer and
 * serial number. A root is printed when the former says "trusted delegator"
 * for e-mail protection, and with the date after which its new certificates
 * are not trusted any more, where the latter has one.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pkcs11go.h"

/* Numbers of NSS, from its pkcs11n.h. */
#define NSS (0x80000000UL | 0x4E534350UL)
#define OBJECT_TRUST (NSS + 3)
#define ATTR_EMAIL_DISTRUST_AFTER (NSS + 36)
#define ATTR_TRUST_EMAIL (NSS + 0x2000 + 11)
#define TRUSTED_DELEGATOR (NSS + 2)

#define MAX_OBJECTS 4096
#define MAX_VALUE 65536

static CK_FUNCTION_LIST_PTR module;
static CK_SESSION_HANDLE session;

static void check(CK_RV rv, const char *what)
{
	if (rv != CKR_OK) {
		fprintf(stderr, "roots: %s: 0x%lx\n", what, (unsigned long)rv);
		exit(1);
	}
}

/* The value of an attribute, and its length; NULL where there is none. */
static unsigned char *attribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, CK_ULONG *length)
{
	CK_ATTRIBUTE a = {type, NULL, 0};
	if (module->C_GetAttributeValue(session, object, &a, 1) != CKR_OK || a.ulValueLen == 0 || a.ulValueLen > MAX_VALUE)
		return NULL;
	a.pValue = calloc(1, a.ulValueLen + 1);
	if (a.pValue == NULL)
		check(CKR_HOST_MEMORY, "allocate");
	check(module->C_GetAttributeValue(session, object, &a, 1), "read attribute");
	*length = a.ulValueLen;
	return a.pValue;
}

static CK_ULONG find(CK_ATTRIBUTE *wanted, CK_ULONG n, CK_OBJECT_HANDLE *found, CK_ULONG max)
{
	CK_ULONG got;
	check(module->C_FindObjectsInit(session, wanted, n), "find");
	check(module->C_FindObjects(session, found, max, &got), "find");
	check(module->C_FindObjectsFinal(session), "find");
	return got;
}

static void print_pem(const unsigned char *b, CK_ULONG n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	puts("-----BEGIN CERTIFICATE-----");
	for (CK_ULONG i = 0; i < n; i += 3) {
		unsigned long v = (unsigned long)b[i] << 16 | (i + 1 < n ? b[i + 1] << 8 : 0) | (i + 2 < n ? b[i + 2] : 0);
		putchar(digits[v >> 18 & 63]);
		putchar(digits[v >> 12 & 63]);
		putchar(i + 1 < n ? digits[v >> 6 & 63] : '=');
		putchar(i + 2 < n ? digits[v & 63] : '=');
		if (i % 48 == 45 || i + 3 >= n)
			putchar('\n');
	}
	puts("-----END CERTIFICATE-----");
}

/* One root, if it is for mail, or all are wanted. */
static int print_root(CK_OBJECT_HANDLE root, int all)
{
	CK_ULONG issuer_len, serial_len, value_len, label_len, date_len = 0, trust_len = 0;
	CK_OBJECT_CLASS class = OBJECT_TRUST;
	CK_OBJECT_HANDLE trust;
	unsigned char *issuer = attribute(root, CKA_ISSUER, &issuer_len);
	unsigned char *serial = attribute(root, CKA_SERIAL_NUMBER, &serial_len);
	unsigned char *value = attribute(root, CKA_VALUE, &value_len);
	unsigned char *label = attribute(root, CKA_LABEL, &label_len);
	unsigned char *date = attribute(root, ATTR_EMAIL_DISTRUST_AFTER, &date_len);
	if (issuer == NULL || serial == NULL || value == NULL || label == NULL)
		return 0;
	CK_ATTRIBUTE wanted[] = {
		{CKA_CLASS, &class, sizeof class}, {CKA_ISSUER, issuer, issuer_len}, {CKA_SERIAL_NUMBER, serial, serial_len}};
	CK_ULONG level = 0;
	if (find(wanted, 3, &trust, 1) == 1) {
		unsigned char *v = attribute(trust, ATTR_TRUST_EMAIL, &trust_len);
		if (v != NULL && trust_len == sizeof level)
			memcpy(&level, v, sizeof level);
		free(v);
	}
	int mail = level == TRUSTED_DELEGATOR;
	if (mail || all) {
		while (label_len > 0 && label[label_len - 1] == 0) /* some end like strings of C */
			label_len--;
		for (CK_ULONG i = 0; i < label_len; i++)
			if (label[i] < ' ' || label[i] == 0x7f)
				label[i] = '?';
		printf("\n# %s\n", label);
		if (!mail)
			puts("# not for mail");
		if (date_len == 13) /* YYMMDDhhmmssZ; otherwise it is the boolean false */
			printf("# distrust-after: 20%.2s-%.2s-%.2sT%.2s:%.2s:%.2sZ\n", date, date + 2, date + 4, date + 6, date + 8, date + 10);
		print_pem(value, value_len);
	}
	free(issuer);
	free(serial);
	free(value);
	free(label);
	free(date);
	return mail;
}

int main(int argc, char **argv)
{
	if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "all") != 0)) {
		fprintf(stderr, "usage: roots MODULE [all]\n");
		return 2;
	}
	void *library = dlopen(argv[1], RTLD_NOW);
	CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
	if (list == NULL) {
		fprintf(stderr, "roots: load module: %s\n", dlerror());
		return 1;
	}
	check(list(&module), "load module");
	check(module->C_Initialize(NULL), "initialise");
	CK_INFO info;
	check(module->C_GetInfo(&info), "ask for the version");
	CK_SLOT_ID slots[16];
	CK_ULONG n = 16;
	check(module->C_GetSlotList(CK_TRUE, slots, &n), "list tokens");
	if (n == 0)
		check(CKR_TOKEN_NOT_PRESENT, "list tokens");
	check(module->C_OpenSession(slots[0], CKF_SERIAL_SESSION, NULL, NULL, &session), "open session");

	printf("# builtins: %d.%d\n", info.libraryVersion.major, info.libraryVersion.minor);
	CK_OBJECT_CLASS class = CKO_CERTIFICATE;
	CK_ATTRIBUTE wanted = {CKA_CLASS, &class, sizeof class};
	static CK_OBJECT_HANDLE roots[MAX_OBJECTS];
	int mail = 0;
	n = find(&wanted, 1, roots, MAX_OBJECTS);
	for (CK_ULONG i = 0; i < n; i++)
		mail += print_root(roots[i], argc == 3);
	if (mail == 0) {
		fprintf(stderr, "roots: the module trusts none of its %lu roots for mail\n", (unsigned long)n);
		return 1;
	}
	return 0;
}
