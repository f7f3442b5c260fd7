import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { Widget } from '@lumino/widgets';

/**
 * Show something in a tab of the main area; or below that, where it has room for one thing
 * only, as in Notebook 7.
 */
export function showTab(
  shell: JupyterFrontEnd.IShell,
  tab: Widget,
  where: DocumentRegistry.IOpenOptions = {}
): void {
  shell.add(tab, 'main', where);
  if (!tab.isAttached) {
    tab.addClass('jp-cr-mod-below');
    shell.add(tab, 'down');
  }
  shell.activateById(tab.id);
}
