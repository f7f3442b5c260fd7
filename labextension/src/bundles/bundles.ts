import type { TranslationBundle } from '@jupyterlab/translation';

import { SnapshotError } from '../api';
import type { SnapshotModel } from '../model';
import type { Notices } from '../notices';
import type { ISnapshot } from '../types';
import type { Trust } from './trust';

/** What bundles are called, see `jupyter_cr/server/handlers.py`. */
const SUFFIX = '.tar';

/**
 * Snapshots that are carried elsewhere in one file, or come in one.
 */
export class Bundles {
  constructor(
    private readonly model: SnapshotModel,
    private readonly trust: Trust,
    private readonly notices: Notices,
    private readonly trans: TranslationBundle
  ) {}

  /** Shows a snapshot in the panel. */
  show: (name: string) => void = () => undefined;

  /** Have the browser save a snapshot as a file. */
  export(snapshot: ISnapshot): void {
    const { model, notices, trans } = this;
    const link = document.createElement('a');
    link.href = model.client.bundleUrl(snapshot.name);
    link.download = '';
    document.body.appendChild(link);
    link.click();
    link.remove();
    notices.tell({
      message: trans.__(
        'Exporting “%1”. The file holds all that was in memory, passwords and keys included.',
        snapshot.name
      )
    });
  }

  /** Ask for files, and import them. */
  choose(): void {
    const input = document.createElement('input');
    input.type = 'file';
    input.accept = SUFFIX;
    input.multiple = true;
    input.addEventListener('change', () => {
      void this.import([...(input.files ?? [])]);
    });
    input.click();
  }

  /** Take the snapshots out of files, one after the other. */
  async import(files: readonly File[]): Promise<void> {
    for (const file of files) {
      await this.importOne(file);
    }
  }

  private async importOne(file: File): Promise<void> {
    const { model, notices, trans, trust } = this;
    const cancel = new AbortController();
    const result = await notices.during(
      trans.__('Importing %1…', file.name),
      report =>
        model.client
          .import(file, { progress: report, signal: cancel.signal })
          .catch(error => {
            throw cancel.signal.aborted
              ? new SnapshotError(
                  trans.__('The import was called off.'),
                  '',
                  'Cancelled'
                )
              : error;
          }),
      result => ({
        message: trans.__('Imported “%1”.', result.name),
        warnings: result.warnings,
        actions: [
          {
            label: trans.__('Show'),
            caption: trans.__('Show this snapshot in the panel'),
            isMain: true,
            callback: () => this.show(result.name)
          }
        ]
      }),
      { cancel: () => cancel.abort() }
    );
    if (result && (!result.trusted || result.missing.length)) {
      this.show(result.name);
      await trust.introduce(result);
    }
  }
}
