// Walks over a directory and reads all files in it, half of them by Node's thread pool.
const fs = require('fs');
const path = require('path');

let bytes = 0;
let number = 0;

async function walk(directory) {
  for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
    const place = path.join(directory, entry.name);
    if (entry.isDirectory()) await walk(place);
    else if (entry.isFile() && number++ % 2) bytes += fs.readFileSync(place).length;
    else if (entry.isFile()) bytes += (await fs.promises.readFile(place)).length;
  }
}

walk(process.argv[2]).then(() => console.log(bytes));
