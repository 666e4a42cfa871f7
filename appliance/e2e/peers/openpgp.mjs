// A mail program that speaks OpenPGP version 6, for the tests:
//   generate NAME ADDRESS      prints a secret key, armoured
//   public < KEY               prints its certificate
//   seal KEYFILE CERTFILE      signs and encrypts standard input
//   open KEYFILE CERTFILE      decrypts and verifies it; exit status 1 unless both hold
import * as openpgp from 'openpgp';
import { readFileSync } from 'node:fs';

openpgp.config.v6Keys = true;
openpgp.config.aeadProtect = true;

const [verb, ...args] = process.argv.slice(2);
const input = () => readFileSync(0);
const key = async (file) => openpgp.readPrivateKey({ armoredKey: readFileSync(file, 'utf8') });
const cert = async (file) => openpgp.readKey({ armoredKey: readFileSync(file, 'utf8') });

switch (verb) {
  case 'generate': {
    const { privateKey } = await openpgp.generateKey({ type: 'curve25519', userIDs: [{ name: args[0], email: args[1] }], format: 'armored' });
    process.stdout.write(privateKey);
    break;
  }
  case 'public': {
    const k = await openpgp.readPrivateKey({ armoredKey: input().toString() });
    process.stdout.write(k.toPublic().armor());
    break;
  }
  case 'seal': {
    const message = await openpgp.createMessage({ binary: new Uint8Array(input()) });
    process.stdout.write(await openpgp.encrypt({ message, signingKeys: await key(args[0]), encryptionKeys: await cert(args[1]) }));
    break;
  }
  case 'open': {
    const { data, signatures } = await openpgp.decrypt({
      message: await openpgp.readMessage({ armoredMessage: input().toString() }),
      decryptionKeys: await key(args[0]),
      verificationKeys: await cert(args[1]),
      expectSigned: true,
      format: 'binary',
    });
    await signatures[0].verified;
    process.stdout.write(data);
    break;
  }
  default:
    console.error(`openpgp: no verb ${verb}`);
    process.exit(2);
}
