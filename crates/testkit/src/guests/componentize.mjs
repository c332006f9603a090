// Makes a component of JavaScript: what `javascript.rs` runs in the folder that has the tool.
//   SOURCE WIT-FOLDER WORLD OUTPUT
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [source, witPath, worldName, output] = process.argv.slice(1);
// Without this feature the source's own export is what handles a request.
const options = { witPath, worldName, disableFeatures: ['fetch-event'] };
const { component } = await componentize(await readFile(source, 'utf8'), options);
await writeFile(output, component);
