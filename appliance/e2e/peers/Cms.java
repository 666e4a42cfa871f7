// Cms is the peer "Bouncy Castle" of the S/MIME tests: it makes and reads CMS
// messages, one for each line on its standard input, and answers each with
// "ok" or "no" and a cause. A line is a verb and fields name=value; files hold
// what is long. It needs Debian's libbcpkix-java, and runs from its source:
//
//   java -cp /usr/share/java/bcprov.jar:/usr/share/java/bcutil.jar:/usr/share/java/bcpkix.jar Cms.java

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.AlgorithmParameters;
import java.security.Key;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.SecureRandom;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.interfaces.ECPrivateKey;
import java.security.interfaces.ECPublicKey;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1OctetString;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.cms.IssuerAndSerialNumber;
import org.bouncycastle.asn1.cms.KeyAgreeRecipientIdentifier;
import org.bouncycastle.asn1.cms.KeyAgreeRecipientInfo;
import org.bouncycastle.asn1.cms.OriginatorIdentifierOrKey;
import org.bouncycastle.asn1.cms.OriginatorPublicKey;
import org.bouncycastle.asn1.cms.RecipientEncryptedKey;
import org.bouncycastle.asn1.cms.RecipientInfo;
import org.bouncycastle.asn1.cms.RecipientKeyIdentifier;
import org.bouncycastle.asn1.cms.ecc.ECCCMSSharedInfo;
import org.bouncycastle.asn1.edec.EdECObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.SubjectPublicKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaCertStore;
import org.bouncycastle.cms.CMSAuthEnvelopedData;
import org.bouncycastle.cms.CMSAuthEnvelopedDataGenerator;
import org.bouncycastle.cms.CMSEnvelopedData;
import org.bouncycastle.cms.CMSEnvelopedDataGenerator;
import org.bouncycastle.cms.CMSException;
import org.bouncycastle.cms.CMSProcessableByteArray;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.CMSSignedDataGenerator;
import org.bouncycastle.cms.KeyAgreeRecipientInformation;
import org.bouncycastle.cms.Recipient;
import org.bouncycastle.cms.RecipientInfoGenerator;
import org.bouncycastle.cms.RecipientInformation;
import org.bouncycastle.cms.RecipientInformationStore;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSignerInfoGeneratorBuilder;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.cms.jcajce.JceCMSContentEncryptorBuilder;
import org.bouncycastle.cms.jcajce.JceKeyAgreeEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyAgreeRecipientInfoGenerator;
import org.bouncycastle.cms.jcajce.JceKeyTransAuthEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyTransEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyTransRecipientInfoGenerator;
import org.bouncycastle.crypto.DerivationFunction;
import org.bouncycastle.crypto.Digest;
import org.bouncycastle.crypto.agreement.X25519Agreement;
import org.bouncycastle.crypto.digests.SHA256Digest;
import org.bouncycastle.crypto.digests.SHA384Digest;
import org.bouncycastle.crypto.digests.SHA512Digest;
import org.bouncycastle.crypto.engines.AESEngine;
import org.bouncycastle.crypto.engines.RFC3394WrapEngine;
import org.bouncycastle.crypto.generators.HKDFBytesGenerator;
import org.bouncycastle.crypto.generators.KDF2BytesGenerator;
import org.bouncycastle.crypto.params.HKDFParameters;
import org.bouncycastle.crypto.params.KDFParameters;
import org.bouncycastle.crypto.params.KeyParameter;
import org.bouncycastle.crypto.params.X25519PrivateKeyParameters;
import org.bouncycastle.crypto.params.X25519PublicKeyParameters;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.OutputAEADEncryptor;
import org.bouncycastle.operator.OutputEncryptor;
import org.bouncycastle.operator.jcajce.JcaAlgorithmParametersConverter;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;
import org.bouncycastle.util.encoders.Hex;

@SuppressWarnings("deprecation") // what Debian 13 calls old, Debian 12 has nothing else for
public class Cms {
	public static void main(String[] args) throws Exception {
		Security.addProvider(new BouncyCastleProvider());
		System.out.println("ok " + Security.getProvider("BC").getInfo().replaceAll(".* v", ""));
		BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
		for (String line; (line = in.readLine()) != null; ) {
			String[] words = line.split(" ");
			Map<String, String> fields = new HashMap<>();
			for (int i = 1; i < words.length; i++) {
				int at = words[i].indexOf('=');
				fields.put(words[i].substring(0, at), words[i].substring(at + 1));
			}
			String answer = "ok";
			try {
				Files.write(Path.of(fields.get("out")), new Cms(fields).run(words[0]));
			} catch (Throwable e) { // an unknown algorithm may be an Error, too
				while (e.getCause() != null && e.getCause() != e) {
					e = e.getCause();
				}
				answer = "no " + (e.getClass().getSimpleName() + ": " + e.getMessage()).replace('\n', ' ');
			}
			System.out.println(answer);
		}
	}

	private final Map<String, String> fields;

	private Cms(Map<String, String> fields) {
		this.fields = fields;
	}

	private byte[] run(String verb) throws Exception {
		switch (verb) {
		case "seal":
			return seal();
		case "open":
			return open();
		case "sign":
			return sign();
		case "verify":
			return verify();
		}
		throw new IllegalArgumentException("verb " + verb);
	}

	private byte[] file(String name) throws Exception {
		return Files.readAllBytes(Path.of(fields.get(name)));
	}

	private X509Certificate cert(String name) throws Exception {
		return (X509Certificate) CertificateFactory.getInstance("X.509", "BC").generateCertificate(Files.newInputStream(Path.of(fields.get(name))));
	}

	private PrivateKey key() throws Exception {
		byte[] der = file("key");
		String algorithm = PrivateKeyInfo.getInstance(der).getPrivateKeyAlgorithm().getAlgorithm().getId();
		return KeyFactory.getInstance(algorithm, "BC").generatePrivate(new PKCS8EncodedKeySpec(der));
	}

	private static ASN1ObjectIdentifier oid(String dotted) {
		return new ASN1ObjectIdentifier(dotted);
	}

	/** recipient names whom by key identifier or by issuer and serial number. */
	private RecipientInfoGenerator recipient() throws Exception {
		X509Certificate cert = cert("cert");
		byte[] ski = fields.containsKey("ski") ? Hex.decode(fields.get("ski")) : null;
		if (fields.containsKey("agree") && !(cert.getPublicKey() instanceof ECPublicKey)) {
			return key -> montgomery(cert, ski, key.getRepresentation() instanceof Key ? ((Key) key.getRepresentation()).getEncoded() : (byte[]) key.getRepresentation());
		}
		if (fields.containsKey("agree")) {
			KeyPairGenerator maker = KeyPairGenerator.getInstance("EC", "BC");
			maker.initialize(((ECPublicKey) cert.getPublicKey()).getParams());
			KeyPair sender = maker.generateKeyPair();
			JceKeyAgreeRecipientInfoGenerator g = new JceKeyAgreeRecipientInfoGenerator(oid(fields.get("agree")), sender.getPrivate(), sender.getPublic(), oid(fields.get("wrap")));
			g.setProvider("BC");
			return ski == null ? g.addRecipient(cert) : g.addRecipient(ski, cert.getPublicKey());
		}
		if (fields.containsKey("oaep")) {
			OAEPParameterSpec spec = new OAEPParameterSpec(fields.get("oaep"), "MGF1", new MGF1ParameterSpec(fields.get("mgf")), PSource.PSpecified.DEFAULT);
			AlgorithmParameters parameters = AlgorithmParameters.getInstance("OAEP", "BC");
			parameters.init(spec);
			var id = new JcaAlgorithmParametersConverter().getAlgorithmIdentifier(oid("1.2.840.113549.1.1.7"), parameters);
			return (ski == null ? new JceKeyTransRecipientInfoGenerator(cert, id) : new JceKeyTransRecipientInfoGenerator(ski, id, cert.getPublicKey())).setProvider("BC");
		}
		return (ski == null ? new JceKeyTransRecipientInfoGenerator(cert) : new JceKeyTransRecipientInfoGenerator(ski, cert.getPublicKey())).setProvider("BC");
	}

	// Key agreement with X25519 (RFC 8418), which the CMS of Bouncy Castle 1.72
	// lacks, from its parts.

	private RecipientInfo montgomery(X509Certificate cert, byte[] ski, byte[] session) throws CMSException {
		try {
			X25519PrivateKeyParameters sender = new X25519PrivateKeyParameters(new SecureRandom());
			byte[] theirs = SubjectPublicKeyInfo.getInstance(cert.getPublicKey().getEncoded()).getPublicKeyData().getOctets();
			AlgorithmIdentifier wrap = new AlgorithmIdentifier(oid(fields.get("wrap")));
			AlgorithmIdentifier agree = new AlgorithmIdentifier(oid(fields.get("agree")), wrap);
			RFC3394WrapEngine engine = new RFC3394WrapEngine(new AESEngine());
			engine.init(true, new KeyParameter(wrapping(agree, sender, new X25519PublicKeyParameters(theirs))));
			KeyAgreeRecipientIdentifier id = ski == null
				? new KeyAgreeRecipientIdentifier(new IssuerAndSerialNumber(new X509CertificateHolder(cert.getEncoded()).toASN1Structure()))
				: new KeyAgreeRecipientIdentifier(new RecipientKeyIdentifier(ski));
			return new RecipientInfo(new KeyAgreeRecipientInfo(
				new OriginatorIdentifierOrKey(new OriginatorPublicKey(new AlgorithmIdentifier(EdECObjectIdentifiers.id_X25519), sender.generatePublicKey().getEncoded())),
				null, agree, new DERSequence(new RecipientEncryptedKey(id, new DEROctetString(engine.wrap(session, 0, session.length))))));
		} catch (Exception e) {
			throw new CMSException("wrap with X25519", e);
		}
	}

	/** wrapping is the key that wraps the session key: RFC 5753 section 7.2 with the KDFs of RFC 8418. */
	private static byte[] wrapping(AlgorithmIdentifier agree, X25519PrivateKeyParameters ours, X25519PublicKeyParameters theirs) throws Exception {
		X25519Agreement x25519 = new X25519Agreement();
		x25519.init(ours);
		byte[] secret = new byte[x25519.getAgreementSize()];
		x25519.calculateAgreement(theirs, secret, 0);
		AlgorithmIdentifier wrap = AlgorithmIdentifier.getInstance(agree.getParameters());
		String oid = wrap.getAlgorithm().getId();
		int length = oid.endsWith(".45") ? 32 : oid.endsWith(".25") ? 24 : 16;
		byte[] info = new ECCCMSSharedInfo(wrap, new byte[] {0, 0, (byte) (length * 8 >> 8), (byte) (length * 8)}).getEncoded("DER");
		Object[] kdf = KDFS.get(agree.getAlgorithm().getId());
		DerivationFunction function = (boolean) kdf[0] ? new HKDFBytesGenerator((Digest) kdf[1]) : new KDF2BytesGenerator((Digest) kdf[1]);
		function.init((boolean) kdf[0] ? new HKDFParameters(secret, null, info) : new KDFParameters(secret, info));
		byte[] key = new byte[length];
		function.generateBytes(key, 0, length);
		return key;
	}

	private static final Map<String, Object[]> KDFS = Map.of(
		"1.2.840.113549.1.9.16.3.19", new Object[] {true, new SHA256Digest()},
		"1.2.840.113549.1.9.16.3.20", new Object[] {true, new SHA384Digest()},
		"1.2.840.113549.1.9.16.3.21", new Object[] {true, new SHA512Digest()},
		"1.3.132.1.11.1", new Object[] {false, new SHA256Digest()},
		"1.3.132.1.11.2", new Object[] {false, new SHA384Digest()},
		"1.3.132.1.11.3", new Object[] {false, new SHA512Digest()});

	/** montgomery opens what the method of that name sealed, and what others do. */
	private static JceKeyAgreeEnvelopedRecipient montgomery(PrivateKey key) throws Exception {
		byte[] scalar = ASN1OctetString.getInstance(PrivateKeyInfo.getInstance(key.getEncoded()).parsePrivateKey()).getOctets();
		return new JceKeyAgreeEnvelopedRecipient(key) {
			@Override
			protected Key extractSecretKey(AlgorithmIdentifier agree, AlgorithmIdentifier content, SubjectPublicKeyInfo sender, ASN1OctetString material, byte[] wrapped) throws CMSException {
				try {
					RFC3394WrapEngine engine = new RFC3394WrapEngine(new AESEngine());
					engine.init(false, new KeyParameter(wrapping(agree, new X25519PrivateKeyParameters(scalar), new X25519PublicKeyParameters(sender.getPublicKeyData().getOctets()))));
					return new SecretKeySpec(engine.unwrap(wrapped, 0, wrapped.length), content.getAlgorithm().getId());
				} catch (Exception e) {
					throw new CMSException("unwrap with X25519", e);
				}
			}
		};
	}

	private byte[] seal() throws Exception {
		OutputEncryptor cipher = new JceCMSContentEncryptorBuilder(oid(fields.get("cipher"))).setProvider("BC").build();
		CMSProcessableByteArray content = new CMSProcessableByteArray(file("in"));
		if (cipher instanceof OutputAEADEncryptor) {
			CMSAuthEnvelopedDataGenerator g = new CMSAuthEnvelopedDataGenerator();
			g.addRecipientInfoGenerator(recipient());
			return g.generate(content, (OutputAEADEncryptor) cipher).getEncoded();
		}
		CMSEnvelopedDataGenerator g = new CMSEnvelopedDataGenerator();
		g.addRecipientInfoGenerator(recipient());
		return g.generate(content, cipher).getEncoded();
	}

	private byte[] open() throws Exception {
		byte[] message = file("in");
		boolean authenticated = fields.containsKey("aead");
		RecipientInformationStore store = authenticated ? new CMSAuthEnvelopedData(message).getRecipientInfos() : new CMSEnvelopedData(message).getRecipientInfos();
		for (RecipientInformation r : store.getRecipients()) {
			Recipient how;
			if (r instanceof KeyAgreeRecipientInformation) {
				PrivateKey key = key();
				how = (key instanceof ECPrivateKey ? new JceKeyAgreeEnvelopedRecipient(key) : montgomery(key)).setProvider("BC");
			} else {
				how = authenticated ? new JceKeyTransAuthEnvelopedRecipient(key()).setProvider("BC") : new JceKeyTransEnvelopedRecipient(key()).setProvider("BC");
			}
			return r.getContent(how);
		}
		throw new IllegalArgumentException("no recipient");
	}

	private byte[] sign() throws Exception {
		X509Certificate cert = cert("cert");
		ContentSigner signer = new JcaContentSignerBuilder(fields.get("algorithm")).setProvider("BC").build(key());
		JcaSignerInfoGeneratorBuilder builder = new JcaSignerInfoGeneratorBuilder(new JcaDigestCalculatorProviderBuilder().setProvider("BC").build());
		CMSSignedDataGenerator g = new CMSSignedDataGenerator();
		g.addSignerInfoGenerator(fields.containsKey("ski") ? builder.build(signer, Hex.decode(fields.get("ski"))) : builder.build(signer, cert));
		g.addCertificates(new JcaCertStore(List.of(cert)));
		return g.generate(new CMSProcessableByteArray(file("in")), !fields.containsKey("detached")).getEncoded();
	}

	@SuppressWarnings("unchecked")
	private byte[] verify() throws Exception {
		CMSSignedData signed = fields.containsKey("content") ? new CMSSignedData(new CMSProcessableByteArray(file("content")), file("in")) : new CMSSignedData(file("in"));
		PublicKey anchor = cert("ca").getPublicKey();
		int good = 0;
		for (SignerInformation s : signed.getSignerInfos().getSigners()) {
			for (X509CertificateHolder holder : (Collection<X509CertificateHolder>) signed.getCertificates().getMatches(s.getSID())) {
				X509Certificate cert = (X509Certificate) CertificateFactory.getInstance("X.509", "BC").generateCertificate(new ByteArrayInputStream(holder.getEncoded()));
				cert.verify(anchor, "BC");
				if (!s.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC").build(holder))) {
					throw new SecurityException("bad signature");
				}
				good++;
			}
		}
		if (good == 0 || good != signed.getSignerInfos().size()) {
			throw new SecurityException("signer without a certificate");
		}
		return (byte[]) signed.getSignedContent().getContent();
	}
}
