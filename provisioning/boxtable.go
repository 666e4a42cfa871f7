package provisioning

var (
	optDir    = option{name: "dir", value: "DIR", about: "folder of the operator's key and of what is known of the box; postern in the user's configuration by default"}
	optShares = option{name: "shares", value: "M/N", about: "share the PIN among N people, M of whom unlock the box, as 2/3"}
	optPrint  = option{name: "fingerprint", value: "FP", about: "of the box, as its screen shows it; 32 digits from its beginning or more"}
)

// boxCommands are those of a box. --config means box.toml.
func boxCommands() []command {
	return []command{
		{noun: "box", verb: "render", here: true, about: "write every file of the box that follows from box.toml",
			more:  "Both daemons' files, sockets, network, firewall, clock, Postfix and resolver, each below --out where the box has it. The same box.toml gives the same bytes. Files that are so already are left alone; nothing is removed. --config is box.toml, " + DefaultBox + " by default.",
			flags: []option{{name: "out", value: "DIR", about: "folder in place of the root of the file system"}}, run: boxRender},
		{noun: "box", verb: "serve", here: true, about: "be the box: identity, screen, and what operators ask",
			more: "Run by postern-box.service. While the box belongs to nobody the screen shows its address, fingerprint and a code.",
			flags: []option{{name: "out", value: "DIR", about: "folder to render into in place of the root of the file system"}, {name: "listen", value: "ADDR", about: "address and port in place of manage in [box]"},
				{name: "screen", value: "FILE", about: "terminal to show the screen on; those of the kernel by default", many: true}, {name: "tpm", value: "FILE", about: "TPM for the key of the box, /dev/tpmrm0 where there is one by default"},
				{name: "stick", value: "FILE", about: "file that may claim the box, claim.json of a stick labelled POSTERN by default"}}, run: boxServe},
		{noun: "box", verb: "call", here: true, args: "COMMAND…", min: 1, max: -1, about: "run a command as for an operator elsewhere: without files of the box",
			more: "The box does so for box do. Flags of the command stand behind --.", run: boxCall},

		{noun: "box", verb: "key", here: true, about: "print the pin of the operator's key, for admin or backup-by of box.toml",
			more: "The key is made where there is none.", flags: []option{optDir}, run: ofBox(boxKey)},
		{noun: "box", verb: "claim", here: true, args: "HOST:PORT", min: 1, max: 1, about: "make a box that belongs to nobody one's own",
			more: "Fingerprint and code stand on the screen of the box. --config is the box.toml it gets. The PIN of its token is made up and shared, or given; nothing of it stays here. The box answers with the recovery key of its data partition: write it down, and type it back, here or with box confirm. Then the box begins to work.",
			flags: []option{optDir, optPrint, {name: "code", value: "CODE", about: "of the screen"}, optPINFile, optAskPIN,
				optShares, {name: "out", value: "DIR", about: "folder for the shares, a file for each person; printed without"}}, run: ofBox(boxClaim)},
		{noun: "box", verb: "confirm", here: true, about: "type the recovery key back, and end the claim",
			more: "Asks for it at a terminal, or reads the first line of standard input.", flags: []option{optDir}, run: ofBox(boxConfirm)},
		{noun: "box", verb: "offer", here: true, about: "write a file that claims a box for this operator, without a code",
			more:  "--config is the box.toml it gets. As claim.json on a stick with the label POSTERN, or as the systemd credentials postern.claim and, with the pin that box key prints, postern.owner. It holds no PIN: once the box answers, meet it, and give it one with box pin.",
			flags: []option{optDir, {name: "out", value: "FILE", about: "where it goes"}}, run: ofBox(boxOffer)},
		{noun: "box", verb: "pin", here: true, about: "give the token of a box that was claimed by a file its first PIN",
			more:  "As box claim does with its flags.",
			flags: []option{optDir, optPINFile, optAskPIN, optShares, {name: "out", value: "DIR", about: "folder for the shares, a file for each person; printed without"}}, run: ofBox(boxPIN)},
		{noun: "box", verb: "meet", here: true, args: "HOST:PORT", min: 1, max: 1, about: "note a box that somebody else has claimed, or that has moved",
			more: "A box that is known already needs no --fingerprint: it is at another address, and has the same key.", flags: []option{optDir, optPrint}, run: ofBox(boxMeet)},
		{noun: "box", verb: "status", here: true, about: "ask the box for its state",
			more: "Exit status 0 when its token is ready, 1 when it is not.", flags: []option{optDir}, run: ofBox(boxStatus)},
		{noun: "box", verb: "config", here: true, about: "print the box.toml that is in force", flags: []option{optDir}, run: ofBox(boxConfigOf)},
		{noun: "box", verb: "configure", here: true, about: "put another box.toml in force",
			more: "It is --config. The box checks it whole before anything changes.", flags: []option{optDir}, run: ofBox(boxConfigure)},
		{noun: "box", verb: "do", here: true, args: "COMMAND…", min: 1, max: -1, about: "run a command of postern on the box",
			more: "As box do -- cert import -. What the command reads is standard input, files that it writes come to the current folder. Those that belong to one machine, or would read its files, are refused.", flags: []option{optDir}, run: ofBox(boxDo)},
		{noun: "box", verb: "backup", here: true, about: "fetch a backup of the box",
			more: "Encrypted for backup-to of box.toml: who fetches it cannot read it. Private keys are not in it.", flags: []option{optDir, {name: "out", value: "FILE", about: "where it goes"}}, run: ofBox(boxBackup)},
		{noun: "box", verb: "restore", here: true, args: "FILE", min: 1, max: 1, about: "give a box a backup back",
			more:  "The backup is opened here with --identity, and goes to the box over a connection that nobody else reads. The box takes it when it was made by the box with the fingerprint --from, which is its own by default.",
			flags: []option{optDir, {name: "identity", value: "FILE", about: "key of age that opens it"}, {name: "from", value: "FP", about: "fingerprint of the box it was made by, all 64 digits"}}, run: ofBox(boxRestore)},
		{noun: "box", verb: "recovery", here: true, about: "make another recovery key for the data partition, and end the last one", flags: []option{optDir}, run: ofBox(boxRecovery)},
		{noun: "box", verb: "reset", here: true, about: "wipe the box: token, data and identity",
			more: "Asks for its name. What was on it is gone; it belongs to nobody afterwards.", flags: []option{optDir, optYes}, run: ofBox(boxReset)},
		{noun: "unlock", here: true, args: "[FILE…]", max: -1, about: "give the box shares of its PIN, or the PIN",
			more: "Each file holds one share; - reads standard input, without a file it is asked for. People may do so one after the other, in different places, within a quarter of an hour from one to the next. A share that is wrong is found out before the token is asked.", flags: []option{optDir, optPINFile, optAskPIN}, run: ofBox(boxUnlock)},
	}
}
