package filter

// What people read of mail that goes as a PDF. {…} is filled in.
const (
	coverSubject = "Vertrauliche Nachricht / Confidential message"

	coverText = `Guten Tag,

{author} schickt Ihnen eine vertrauliche Nachricht. Sie steht mit allen
Anlagen in der angehängten Datei {file}.

Die Datei öffnet sich mit einem Passwort. Es steht in keiner E-Mail:
{author} sagt es Ihnen, am besten am Telefon. Haben Sie noch keines, rufen
Sie bitte an - unter einer Nummer, die Sie schon kennen, nicht unter einer
aus einer E-Mail.

Nehmen Sie ein PDF-Programm wie Adobe Reader; manche Browser zeigen zwar den
Text, aber nicht die Anlagen in der Datei.

* * *

Hello,

{author} sends you a confidential message. It is in the attached file
{file}, with everything that belongs to it.

The file opens with a password. No e-mail has it: {author} tells you,
best by phone. If you have none yet, please call - a number that you know
already, not one out of an e-mail.

Use a PDF program such as Adobe Reader; some browsers show the text and not
the files that are attached to it.
`

	tellGerman = `Ihre Mail vom {time} an

{recipients}

geht als PDF-Datei mit einem Passwort hinaus, denn sie muss verschlüsselt
werden, und ein Zertifikat dieser Empfänger ist nicht bekannt.

    Datei:    {file}
    Passwort: {password}
`

	adviceGerman = `Sagen Sie den Empfängern das Passwort bitte selbst, am Telefon oder
persönlich. Schreiben Sie es in keine E-Mail, und antworten Sie nicht auf diese
hier. Das Passwort gibt es nur in dieser Mail: ohne sie öffnet niemand die
Datei. Wird Ihre Mail nicht angenommen, hören Sie davon wie sonst.
`

	tellEnglish = `Your mail of {time} to

{recipients}

goes out as a PDF file with a password, since it has to be encrypted, and no
certificate of these recipients is known.

    File:     {file}
    Password: {password}
`

	adviceEnglish = `Please tell the recipients the password yourself, by phone or in person. Write it
in no e-mail, and do not answer this one. Only this mail has the password:
without it nobody opens the file. If your mail is not accepted, you will hear
of that as usual.
`
)
