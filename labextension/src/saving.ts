import type { DocumentRegistry } from '@jupyterlab/docregistry';

/** How long to wait for an answer, in ms; each time that it is asked for. */
const PATIENCE_MS = [1000, 2000];

/**
 * Save a document, so that the server reads what is on the screen.
 *
 * Where it is shared, the answer may never come: jupyter-collaboration gives none to those
 * whose saving has been called off, before it had begun, by its own after each change
 * (jupyter_server_ydoc 3.0, `DocumentRoom._maybe_save_document`). It is asked again then;
 * and if that does not help, its own saving has to do.
 */
export async function save(context: DocumentRegistry.Context): Promise<void> {
  if (!context.model.collaborative) {
    return context.save();
  }
  for (const patience of PATIENCE_MS) {
    const saved = context.save().then(() => true);
    if (await Promise.race([saved, wait(patience)])) {
      return;
    }
    // Nobody waits for it any more.
    saved.catch(() => undefined);
  }
}

function wait(ms: number): Promise<false> {
  return new Promise(resolve => window.setTimeout(() => resolve(false), ms));
}
